"""The optimizer: it needs torch alone and knows nothing of the workbench."""

from mofo.optim.groups import param_groups
from mofo.optim.kernels.dispatch import backends
from mofo.optim.offload import CPUOffload
from mofo.optim.optimizer import MoFO

__all__ = ["CPUOffload", "MoFO", "backends", "param_groups"]

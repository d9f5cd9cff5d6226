"""The optimizer; it needs torch alone and knows nothing of the workbench."""

from mofo.optim.dispatch import backends
from mofo.optim.groups import param_groups
from mofo.optim.mofo import MoFO
from mofo.optim.offload import CPUOffload

__all__ = ["CPUOffload", "MoFO", "backends", "param_groups"]

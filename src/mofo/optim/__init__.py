"""The optimizer; it needs torch alone and knows nothing of the workbench."""

from mofo.optim.dispatch import backends
from mofo.optim.groups import param_groups
from mofo.optim.mofo import MoFO

__all__ = ["MoFO", "backends", "param_groups"]

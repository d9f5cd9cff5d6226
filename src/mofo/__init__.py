"""MoFO: Adam that moves only the largest-momentum entries, so that a fine-tuned model forgets less."""

from mofo.optim import CPUOffload, MoFO, backends, param_groups

__all__ = ["CPUOffload", "MoFO", "__version__", "backends", "param_groups"]
__version__ = "0.1.0"

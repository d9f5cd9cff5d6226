"""The fast back end for GPUs, in Triton: `launch.py` has the phases of a step, `kernels.py` the loops."""

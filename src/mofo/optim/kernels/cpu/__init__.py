"""The fast back end for CPU tensors: `library.py` calls the C++ beside it, which `step.h` declares."""

"""Tells Triton how to run before anything imports it."""

import os

import torch

if not torch.cuda.is_available():  # then GPU kernels are interpreted; Triton looks at this once, when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

"""Arithmetic that is rounded in the same way on every device and in every back end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

try:
    import numpy

    HAS_NUMPY = True
except ImportError:  # torch does not need it
    HAS_NUMPY = False

if TYPE_CHECKING:
    from torch import Tensor


def square_root(x: Tensor, out: Tensor | None = None) -> Tensor:
    """√x, correctly rounded, as processors and torch's fused AdamW have it.

    torch's own for float32 on a CPU may be MKL's, whose last bit is wrong in one of five. NumPy's is right, and so is
    one taken in double precision, which is too close to be rounded to the wrong side, but takes five times as long.
    """
    if x.device.type != "cpu" or x.dtype is not torch.float32:
        return torch.sqrt(x, out=out)
    if out is None:
        out = torch.empty_like(x)
    if not HAS_NUMPY:
        return out.copy_(x.double().sqrt_())
    with numpy.errstate(all="ignore"):
        numpy.sqrt(x.numpy(), out=out.numpy())
    return out

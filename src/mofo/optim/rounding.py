"""Arithmetic that is rounded in the same way on every device and in every back end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def square_root(x: Tensor) -> Tensor:
    """√x, correctly rounded. torch's own for float32 on a CPU may be MKL's, whose last bit is wrong in one of five."""
    if x.device.type == "cpu" and x.dtype is torch.float32:
        return x.double().sqrt_().float()  # a root in double precision is too close to be rounded to the wrong side
    return x.sqrt()

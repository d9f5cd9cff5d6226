"""Arithmetic that every device and back end rounds in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from mofo.optim.rule.hashing import ROUNDING, hash_indices, hash_key

try:
    import numpy

    HAS_NUMPY = True
except ImportError:  # torch does not need it
    HAS_NUMPY = False

if TYPE_CHECKING:
    from torch import Tensor

    from mofo.optim.rule.types import Rounding


def square_root(x: Tensor, out: Tensor | None = None) -> Tensor:
    """Return √x correctly rounded, as processors and torch's fused AdamW compute it.

    On a CPU torch's own may be MKL's, whose last bit is wrong for a fifth of float32 numbers and, on some processors,
    for 0.6 % of float64 ones. NumPy's is right. Without NumPy float32 goes through double precision, which is too close
    to be rounded to the wrong side but takes five times as long, and float64 is left to torch.
    """
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return torch.sqrt(x, out=out)
    if out is None:
        out = torch.empty_like(x)
    if HAS_NUMPY:
        with numpy.errstate(all="ignore"):
            numpy.sqrt(x.numpy(), out=out.numpy())
        return out
    if x.dtype is torch.float64:
        return torch.sqrt(x, out=out)
    return out.copy_(x.double().sqrt_())


def rounds_at_random(rounding: Rounding, param: Tensor) -> bool:
    """Check whether new values of a parameter are rounded at random; wider types hold them as they are."""
    return rounding == "stochastic" and param.dtype is torch.bfloat16


def rounding_key(seed: int, step: int) -> int:
    """Return 64 bits that depend on `seed` and `step` alone, for the random rounding of one tensor in one step."""
    return hash_key(seed, step, ROUNDING)


class Dither(NamedTuple):
    """What decides how each entry is rounded at random."""

    indices: Tensor  # row-major index of each entry in its tensor, int64
    key: int  # `rounding_key` of the tensor and step


def round_at_random(x: Tensor, dither: Dither) -> Tensor:
    """Round float32 to one of the two nearest bfloat16, the nearer the likelier, so that the mean is the number itself.

    Sixteen random bits are added to the lower half of its bits, which bfloat16 does not have, before they are cut off.
    Numbers that bfloat16 has, infinity and NaN stay.

    Args:
        x: float32.
        dither: for the entries of x.

    Returns:
        bfloat16, shape of x.
    """
    bits = x.contiguous().view(torch.int32)
    rounded = (bits + (hash_indices(*dither) >> 16).to(torch.int32)) & -0x10000
    return torch.where(x.isfinite(), rounded.view(torch.float32), x).to(torch.bfloat16)

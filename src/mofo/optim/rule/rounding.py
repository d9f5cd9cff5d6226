"""Arithmetic that is rounded in the same way on every device and in every back end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch

from mofo.optim.rule.hashing import ROUNDING, hash_indices, hash_key

try:
    import numpy

    HAS_NUMPY = True
except ImportError:  # torch does not need it
    HAS_NUMPY = False

if TYPE_CHECKING:
    from torch import Tensor

Rounding = Literal["nearest", "stochastic"]
ROUNDINGS: tuple[str, ...] = get_args(Rounding)


def square_root(x: Tensor, out: Tensor | None = None) -> Tensor:
    """Return √x correctly rounded, as processors and torch's fused AdamW compute it.

    On a CPU torch's own may be MKL's, whose last bit is wrong for one float32 in five and one float64 in two hundred.
    NumPy's is right. Without NumPy float32 goes through double precision, which is too close to be rounded to the wrong
    side but takes five times as long; float64 is then left to torch.
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


def is_random(rounding: Rounding, param: Tensor) -> bool:
    """Whether the new values of a parameter are rounded at random; wider ones hold them as they are."""
    return rounding == "stochastic" and param.dtype is torch.bfloat16


def rounding_key(seed: int, step: int) -> int:
    """64 bits that depend on ``seed`` and ``step`` alone, for the rounding of one tensor in one step."""
    return hash_key(seed, step, ROUNDING)


def round_at_random(x: Tensor, index: Tensor, key: int) -> Tensor:
    """Round float32 to one of the two bfloat16 next to it, the nearer the likelier: the mean is the number itself.

    To the lower half of its bits, which bfloat16 does not have, 16 random bits are added before they are cut off. A
    number that bfloat16 has, infinity and NaN stay.

    Args:
        x: float32.
        index: flat indices of its entries in the tensor, int64, shape of x.
        key: of :func:`rounding_key`.

    Returns:
        bfloat16, shape of x.
    """
    bits = x.contiguous().view(torch.int32)
    rounded = (bits + (hash_indices(index, key) >> 16).to(torch.int32)) & -0x10000
    return torch.where(x.isfinite(), rounded.view(torch.float32), x).to(torch.bfloat16)

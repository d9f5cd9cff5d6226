"""A sample of a model's entries, small enough to be compared before and after a step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from mofo.optim.dtensor import local
from mofo.processes import are_several

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

SAMPLE_SIZE = 2**19
"""About how many entries of the model each process reads; a smaller model is read as a whole."""

STRETCH = 16
"""Neighbouring entries that are read together: 64 bytes of float32."""


class Sample:
    """A sample of the entries of parameters, and how many entries each of them stands for.

    Stretches of `STRETCH` entries are taken at even distances in every tensor; tensors shorter than one distance are
    taken as a whole.

    Args:
        params: The parameters of the optimizer: plain tensors, the same on each process, or `DTensor`, of which a
            process reads its own part.

    Attributes:
        weights: How many entries of the model each entry of the sample stands for, (entries of the sample,). Their
            sum over all processes is the number of entries of the model.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = params
        own = [local(p.detach()) for p in params]
        one_in = math.ceil(sum(p.numel() for p in own) / SAMPLE_SIZE)
        # Odd, so that the stretches do not fall into the same columns of matrices, whose width is a power of two.
        self.period = STRETCH * one_in + 1 if one_in > 1 else math.inf
        pieces = [_stretches(p, self.period) for p in own]
        self.shapes = [piece.shape for piece in pieces]
        dtype = torch.float32
        for p in own:
            dtype = torch.promote_types(dtype, p.dtype)

        device = own[0].device
        sizes = torch.tensor([p.numel() for p in own], dtype=dtype, device=device)
        copies = sum_over_processes(sizes.clone()) / torch.tensor([p.numel() for p in params], device=device)
        taken = torch.tensor([piece.numel() for piece in pieces], device=device)
        self.weights = (sizes / taken.clamp(min=1) / copies).repeat_interleave(taken)

    def read(self) -> Tensor:
        """Return the entries of the sample as they are now, (entries of the sample,), at least float32."""
        entries = torch.empty_like(self.weights)
        pieces = entries.split([shape.numel() for shape in self.shapes])
        for p, piece, shape in zip(self.params, pieces, self.shapes, strict=True):
            piece.view(shape).copy_(_stretches(local(p.detach()), self.period))
        return entries

    def totals(self, *values: Tensor) -> list[float]:
        """Estimate sums over all entries of the model from values of the sample's, each (entries of the sample,)."""
        sums = torch.stack([(self.weights * value).sum() for value in values])
        totals: list[float] = sum_over_processes(sums).tolist()
        return totals


def sum_over_processes(values: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place; alone where torch.distributed is not in use. Return it."""
    if are_several():
        dist.all_reduce(values)
    return values


def _stretches(tensor: Tensor, period: float) -> Tensor:
    """Return the first `STRETCH` of every `period` entries, (stretches, STRETCH), or all of a shorter tensor, (n,)."""
    n = tensor.numel()
    if n < period:
        return tensor.reshape(-1)
    count = n // int(period)
    return tensor.reshape(-1)[: count * int(period)].view(count, -1)[:, :STRETCH]

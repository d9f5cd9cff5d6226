"""What one process does with its entries of a sharded tensor, in plain torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from mofo.optim.kernels.plain.threshold import INFINITY, INTEGER, SAMPLE
from mofo.optim.rule.rounding import is_random, rounding_key
from mofo.optim.rule.scores import noise, noise_key, scores
from mofo.optim.rule.update import move, update_moments

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from mofo.optim.distributed.layout import Layout, Run

TILE = {"cpu": 1 << 18}  # entries handled at a time: few enough for the cache;
LARGE_TILE = 1 << 24  # elsewhere few enough for scratch memory, and enough to outweigh the cost of a call

Tile = tuple[slice, slice]  # of blocks, and of the entries of each


class Shard:
    """A run of blocks of one tensor, of each of which this process has the same number of entries."""

    def __init__(
        self,
        operands: tuple[Tensor, ...],  # θ, g, m, v: what the run has of the local tensors, (rows, …) each
        t: int,  # number of this step, from 1
        seed: int,
        layout: Layout,
        run: Run,
        n: int,  # entries of a block in all processes
        first: int,  # number of the first block
        method: Mapping[str, Any],
    ) -> None:
        self._t = t
        self._n = n
        self._noise_key = noise_key(seed, t) if method["score"] == "random" else 0
        self._rounding_key = rounding_key(seed, t) if is_random(method["rounding"], operands[0]) else None
        self._layout = layout
        self._offset = run.start * (operands[0].numel() // (run.stop - run.start))  # flat index in the local tensor
        self.blocks = slice(first, first + run.blocks)  # their numbers
        self._method = method
        self._operands = operands
        # (blocks, entries of each); copies of what is not contiguous
        self._param, self._grad, self._exp_avg, self._exp_avg_sq = (
            operand.contiguous().view(run.blocks, -1) for operand in operands
        )

    def count_sample(self, shift: int, counts: Tensor) -> None:
        """Add to ``counts`` (all blocks, bins) a sample of the keys, of small blocks all of them, by their top bits.

        They are those that the entries will have once the moments are updated, but for their last bits.

        Args:
            shift: the bin of a key is ``key >> shift``.
            counts: int64.
        """
        counts, bins = counts[self.blocks], counts.shape[1]
        stride = max(1, min(self._n // SAMPLE[0], 64), self._n // SAMPLE[1])
        while stride > 1 and math.gcd(stride, self._param.shape[1]) > 1:  # or it could see few of the columns
            stride += 1
        for blocks, entries in self._tiles():
            found = self._keys(blocks, slice(entries.start, entries.stop, stride), ahead=True) >> shift
            found += torch.arange(len(found), device=found.device, dtype=found.dtype)[:, None] * bins
            counts[blocks] += torch.bincount(found.view(-1), minlength=len(found) * bins).view(-1, bins)

    def update_moments(self, low: Tensor, high: Tensor) -> None:
        """Update the moments of all entries. The keys from low to high (all blocks,) will be asked for."""
        betas, maximize = self._method["betas"], self._method["maximize"]
        update_moments(self._grad, self._exp_avg, self._exp_avg_sq, betas=betas, maximize=maximize)

    def count_keys(self, low: Tensor, high: Tensor, shift: Tensor, counts: Tensor, *, guessed: bool) -> None:
        """Add to ``counts`` (all blocks, bins + 1) how many keys are in each bin, as :func:`count_bins` does.

        The tensors are int64 and have a row for each block of the step. ``guessed``: all keys from low to high are
        among those that :meth:`update_moments` was told of.
        """
        low, high, shift, counts = (x[self.blocks] for x in (low, high, shift, counts))
        for blocks, entries in self._tiles():
            count_bins(self._keys(blocks, entries), low[blocks], high[blocks], shift[blocks], counts[blocks])

    def tied_places(self, block: int, key: int) -> Tensor:
        """Where in the whole tensor the entries of a block (by its number) with this key are; counted from its end."""
        row = block - self.blocks.start
        tied = [self._keys(*tile).eq(key).nonzero()[:, 1] + tile[1].start for tile in self._tiles(row)]
        n = self._param.shape[1]
        return self._layout.size - self._layout.global_index(torch.cat(tied) + (self._offset + row * n))

    def move(self, keys: Tensor, ties: Tensor) -> None:
        """Update the entries with a higher key than their block's (blocks,), and the first ``ties`` equal ones."""
        keys, ties = keys[self.blocks], ties[self.blocks].clone()
        options = {key: self._method[key] for key in ("lr", "betas", "eps", "weight_decay", "decay")}
        for blocks, entries in self._tiles():
            own = self._keys(blocks, entries)
            selected = own > keys[blocks, None]
            tied = own == keys[blocks, None]
            tied &= tied.cumsum(dim=1) <= ties[blocks, None]
            ties[blocks] -= tied.sum(dim=1)
            param, exp_avg, exp_avg_sq = (x[blocks, entries] for x in (self._param, self._exp_avg, self._exp_avg_sq))
            randomness = None
            if self._rounding_key is not None:
                randomness = self._index(blocks, entries), self._rounding_key
            move(param, exp_avg, exp_avg_sq, selected | tied, self._t, randomness, **options)

    def finish(self) -> None:
        """Write back what was copied."""
        copies = (self._param, self._grad, self._exp_avg, self._exp_avg_sq)
        for original, copy in zip(self._operands, copies, strict=True):
            if copy.data_ptr() != original.data_ptr():
                original.copy_(copy.view(original.shape))

    def _tiles(self, row: int | None = None) -> Iterator[Tile]:
        """Cut the blocks, or the one of a row, into pieces of a size that is handled at once."""
        blocks, n = self._param.shape
        size = TILE.get(self._param.device.type, LARGE_TILE)
        together = max(1, size // n)
        rows = [slice(i, min(i + together, blocks)) for i in range(0, blocks, together)]
        for some in rows if row is None else [slice(row, row + 1)]:
            for start in range(0, n, size):
                yield some, slice(start, min(start + size, n))

    def _keys(self, blocks: slice, entries: slice, *, ahead: bool = False) -> Tensor:
        """What ranks the entries of a tile, as integers of the same order; ``ahead``: after the coming update."""
        grad, exp_avg, exp_avg_sq = (x[blocks, entries] for x in (self._grad, self._exp_avg, self._exp_avg_sq))
        score, (beta1, beta2) = self._method["score"], self._method["betas"]
        if ahead:
            grad = (-grad if self._method["maximize"] else grad).to(exp_avg.dtype)
            exp_avg = torch.lerp(exp_avg, grad, 1 - beta1)
            if score == "momentum_over_rms":
                exp_avg_sq = (exp_avg_sq * beta2).addcmul_(grad, grad, value=1 - beta2)
        integer = INTEGER[exp_avg.itemsize]
        if score == "momentum":  # the sign cleared; in a quarter of the time
            return (exp_avg.view(integer) & torch.iinfo(integer).max).clamp_(max=INFINITY[integer])
        noises = None
        if score == "random":
            noises = noise(self._index(blocks, entries), self._noise_key, exp_avg.dtype)
        return scores(score, grad.to(exp_avg.dtype), exp_avg, exp_avg_sq, noises).view(integer)

    def _index(self, blocks: slice, entries: slice) -> Tensor:
        """Row-major index in the whole tensor of the entries of a tile."""
        n, device = self._param.shape[1], self._param.device
        starts = torch.arange(blocks.start, blocks.stop, device=device)[:, None] * n + self._offset
        return self._layout.global_index(starts + torch.arange(*entries.indices(n), device=device))


def count_bins(numbers: Tensor, low: Tensor, high: Tensor, shift: Tensor, counts: Tensor) -> None:
    """Add to ``counts`` (rows, bins + 1) the numbers from low to high by bin, and in the last column those above.

    Args:
        numbers: (rows, n), integers.
        low: (rows,), int64.
        high: (rows,), int64.
        shift: (rows,), int64; the bin of a number is ``(number - low) >> shift``.
        counts: int64.
    """
    rows, columns = (numbers >= low[:, None].to(numbers.dtype)).nonzero(as_tuple=True)
    reached = numbers[rows, columns]
    bins = (reached - low[rows]) >> shift[rows]
    bins = torch.where(reached > high[rows], counts.shape[1] - 1, bins) + rows * counts.shape[1]
    counts += torch.bincount(bins, minlength=counts.numel()).view(counts.shape)

"""What one process does with its entries of a sharded tensor, in plain torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from mofo.optim.kernels.plain.threshold import INFINITY, INTEGER, SAMPLE
from mofo.optim.rule.rounding import Dither, rounding_key, rounds_at_random
from mofo.optim.rule.scores import noise, noise_key, scores
from mofo.optim.rule.update import move, update_moments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from mofo.optim.distributed.layout import Layout, RowRange
    from mofo.optim.rule.types import Operands, Rule

TILE = {"cpu": 1 << 18}  # entries handled at a time: few enough for the cache;
LARGE_TILE = 1 << 24  # elsewhere few enough for scratch memory, and enough to outweigh the cost of a call

Tile = tuple[slice, slice]  # of blocks, and of the entries of each


class Shard:
    """Consecutive blocks of one tensor that are shared, and this process's equally many entries of each.

    Args:
        operands: what these blocks have of the local tensors, (rows, …) each.
        rule: of the update; its blocks are those of the full tensor.
        layout: of the full tensor.
        rows: which rows of the local tensors the blocks are.
        n: entries of a block in all processes.
        first: number of the first block among the shared blocks of the step.
    """

    def __init__(self, operands: Operands, rule: Rule, layout: Layout, rows: RowRange, n: int, first: int) -> None:
        t = int(operands.step) + 1
        self._t = t
        self._n = n
        self._rule = rule
        self._layout = layout
        self._noise_key = noise_key(operands.seed, t)
        self._rounding_key = rounding_key(operands.seed, t)
        self._rounds_at_random = rounds_at_random(rule.rounding, operands.param)
        self._offset = rows.start * (operands.param.numel() // (rows.stop - rows.start))  # index in the local tensor
        self.blocks = slice(first, first + rows.blocks)  # their numbers
        self._originals = operands
        # (blocks, entries of each); copies of what is not contiguous
        param, grad, exp_avg, exp_avg_sq = (x.contiguous().view(rows.blocks, -1) for x in operands[:4])
        self._operands = operands._replace(param=param, grad=grad, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)

    def count_sample(self, least: int, shift: int, counts: Tensor) -> None:
        """Count the keys of a sample in bins, of small blocks all of them.

        They are the keys that the entries will have once the moments are updated, but for their last bits.

        Args:
            least: the bin of a key is `(key - least) >> shift`,
            shift: or the first or the last where there is no such bin.
            counts: (all blocks, bins) int64, to which the counts are added.
        """
        counts, bins = counts[self.blocks], counts.shape[1]
        stride = sample_stride(self._n, self._operands.param.shape[1])
        for blocks, entries in self._tiles():
            found = self._keys(blocks, slice(entries.start, entries.stop, stride), ahead=True)
            found = (found - least >> shift).clamp_(0, bins - 1)
            found += torch.arange(len(found), device=found.device, dtype=found.dtype)[:, None] * bins
            counts[blocks] += torch.bincount(found.view(-1), minlength=len(found) * bins).view(-1, bins)

    def update_moments(self) -> None:
        """Update the moments of all entries."""
        update_moments(self._operands, self._rule)

    def count_keys(self, low: Tensor, high: Tensor, shift: Tensor, counts: Tensor) -> None:
        """Add to `counts` (all blocks, bins + 1) how many keys are in each bin, as `count_bins` does.

        Args:
            low: (all blocks,) int64.
            high: (all blocks,) int64.
            shift: (all blocks,) int64.
            counts: int64.
        """
        low, high, shift, counts = (x[self.blocks] for x in (low, high, shift, counts))
        for blocks, entries in self._tiles():
            count_bins(self._keys(blocks, entries), low[blocks], high[blocks], shift[blocks], counts[blocks])

    def tied_places(self, block: int, key: int) -> Tensor:
        """Return where in the full tensor the entries of a block with this key are, counted from the tensor's end."""
        row = block - self.blocks.start
        tied = [self._keys(*tile).eq(key).nonzero()[:, 1] + tile[1].start for tile in self._tiles(row)]
        n = self._operands.param.shape[1]
        return self._layout.size - self._layout.global_index(torch.cat(tied) + (self._offset + row * n))

    def move(self, keys: Tensor, ties: Tensor) -> None:
        """Update the entries with a higher key than their block's in `keys`, and the first `ties` equal ones.

        Both are (all blocks,) int64.
        """
        keys, ties = keys[self.blocks], ties[self.blocks].clone()
        for blocks, entries in self._tiles():
            own = self._keys(blocks, entries)
            selected = own > keys[blocks, None]
            tied = own == keys[blocks, None]
            tied &= tied.cumsum(dim=1) <= ties[blocks, None]
            ties[blocks] -= tied.sum(dim=1)
            dither = Dither(self._index(blocks, entries), self._rounding_key) if self._rounds_at_random else None
            move(self._tile(blocks, entries), self._rule, selected | tied, self._t, dither)

    def finish(self) -> None:
        """Write back what was copied."""
        for original, copy in zip(self._originals[:4], self._operands[:4], strict=True):
            if copy.data_ptr() != original.data_ptr():
                original.copy_(copy.view(original.shape))

    def _tiles(self, row: int | None = None) -> Iterator[Tile]:
        """Cut the blocks, or the one of a row, into tiles that are handled at once."""
        blocks, n = self._operands.param.shape
        size = TILE.get(self._operands.param.device.type, LARGE_TILE)
        together = max(1, size // n)
        rows = [slice(i, min(i + together, blocks)) for i in range(0, blocks, together)]
        for tile_rows in rows if row is None else [slice(row, row + 1)]:
            for start in range(0, n, size):
                yield tile_rows, slice(start, min(start + size, n))

    def _tile(self, blocks: slice, entries: slice) -> Operands:
        param, grad, exp_avg, exp_avg_sq, step, seed = self._operands
        tile = blocks, entries
        return type(self._operands)(param[tile], grad[tile], exp_avg[tile], exp_avg_sq[tile], step, seed)

    def _keys(self, blocks: slice, entries: slice, *, ahead: bool = False) -> Tensor:
        """Return the scores of a tile as integers of the same order; `ahead` of the update of its moments."""
        _, grad, exp_avg, exp_avg_sq, *_ = self._tile(blocks, entries)
        score, (beta1, beta2) = self._rule.score, self._rule.betas
        if ahead:
            grad = (-grad if self._rule.maximize else grad).to(exp_avg.dtype)
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
        """Return the row-major index in the full tensor of the entries of a tile."""
        n, device = self._operands.param.shape[1], self._operands.param.device
        starts = torch.arange(blocks.start, blocks.stop, device=device)[:, None] * n + self._offset
        return self._layout.global_index(starts + torch.arange(*entries.indices(n), device=device))


def sample_stride(n: int, here: int) -> int:
    """Return how far apart the sampled entries of a block are that has n entries, some of them here."""
    stride = max(1, min(n // SAMPLE[0], 64), n // SAMPLE[1])
    while stride > 1 and math.gcd(stride, here) > 1:  # or it could see few of the columns
        stride += 1
    return stride


def count_bins(numbers: Tensor, low: Tensor, high: Tensor, shift: Tensor, counts: Tensor) -> None:
    """Count the numbers from low to high by bin, and in the last column those above.

    Args:
        numbers: (rows, n), integers.
        low: (rows,) int64.
        high: (rows,) int64.
        shift: (rows,) int64; the bin of a number is `(number - low) >> shift`.
        counts: (rows, bins + 1) int64, to which the counts are added.
    """
    rows, columns = (numbers >= low[:, None].to(numbers.dtype)).nonzero(as_tuple=True)
    reached = numbers[rows, columns]
    bins = (reached - low[rows]) >> shift[rows]
    bins = torch.where(reached > high[rows], counts.shape[1] - 1, bins) + rows * counts.shape[1]
    counts += torch.bincount(bins, minlength=counts.numel()).view(counts.shape)

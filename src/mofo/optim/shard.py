"""What one process does with its entries of a sharded tensor, in plain torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mofo.optim.selection import noise, noise_key, scores
from mofo.optim.top_k import INTEGER
from mofo.optim.update import move, update_moments

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from mofo.optim.layout import Layout, Run

TILE = {"cpu": 1 << 18}  # entries handled at a time: few enough for the cache;
LARGE_TILE = 1 << 24  # elsewhere few enough for scratch memory, and enough to outweigh the cost of a call

Tile = tuple[slice, slice]  # of blocks, and of the entries of each


class Shard:
    """A run of blocks of one tensor, of each of which this process has the same number of entries."""

    def __init__(
        self,
        param: Tensor,  # (rows, …): the part of the local tensor that the run has
        grad: Tensor,  # as param
        exp_avg: Tensor,  # as param, float32 or float64
        exp_avg_sq: Tensor,  # as exp_avg
        t: int,  # number of this step, from 1
        seed: int,
        layout: Layout,
        run: Run,
        first: int,  # number of the first block
        method: Mapping[str, Any],
    ) -> None:
        self._t = t
        self._noise_key = noise_key(seed, t) if method["score"] == "random" else 0
        self._layout = layout
        self._offset = run.start * (param.numel() // (run.stop - run.start))  # flat index in the local tensor
        self._blocks = slice(first, first + run.blocks)
        self._method = method
        self._originals = (param, exp_avg, exp_avg_sq)
        # (blocks, entries of each); copies of what is not contiguous
        self._param, self._grad, self._exp_avg, self._exp_avg_sq = (
            x.contiguous().view(run.blocks, -1) for x in (param, grad, exp_avg, exp_avg_sq)
        )

    def update_moments(self) -> None:
        """Update the moments of all entries."""
        betas, maximize = self._method["betas"], self._method["maximize"]
        update_moments(self._grad, self._exp_avg, self._exp_avg_sq, betas=betas, maximize=maximize)

    def count_keys(self, prefix: Tensor, shift: int, width: int, counts: Tensor) -> None:
        """Add to ``counts`` (blocks, 2**width) how many keys have each digit, of those with the prefix above it."""
        prefix, counts = prefix[self._blocks], counts[self._blocks]
        for blocks, entries in self._tiles():
            _count_digits(self._keys(blocks, entries), prefix[blocks, None], shift, width, counts[blocks])

    def count_places(self, tied: Tensor, prefix: Tensor, shift: int, width: int, counts: Tensor) -> None:
        """The same for the places of the entries that have the key of their block in ``tied`` (blocks,)."""
        tied, prefix, counts = tied[self._blocks], prefix[self._blocks], counts[self._blocks]
        for blocks, entries in self._tiles():
            if (tied[blocks] < 0).all():
                continue  # most often
            places = self._places(blocks, entries)
            places[self._keys(blocks, entries) != tied[blocks, None]] = -1  # no prefix is negative
            _count_digits(places, prefix[blocks, None], shift, width, counts[blocks])

    def move(self, keys: Tensor, places: Tensor) -> None:
        """Update the entries with a higher key than that of their block, or the same and at least its place."""
        keys, places = keys[self._blocks], places[self._blocks]
        options = {key: self._method[key] for key in ("lr", "betas", "eps", "weight_decay", "decay")}
        for blocks, entries in self._tiles():
            own = self._keys(blocks, entries)
            selected = own > keys[blocks, None]
            tied = own == keys[blocks, None]
            if places[blocks].any():
                tied &= self._places(blocks, entries) >= places[blocks, None]
            tile = [x[blocks, entries] for x in (self._param, self._exp_avg, self._exp_avg_sq)]
            move(*tile, selected | tied, self._t, **options)

    def count_ties(self, keys: Tensor, places: Tensor) -> Tensor:
        """How many entries of each block have its key and at least its place; all its entries if that is 0."""
        keys, places = keys[self._blocks], places[self._blocks]
        ties = torch.where(places > 0, 0, self._param.shape[1])
        for blocks, entries in self._tiles() if places.any() else ():
            tied = self._keys(blocks, entries) == keys[blocks, None]
            tied &= (places[blocks, None] > 0) & (self._places(blocks, entries) >= places[blocks, None])
            ties[blocks] += tied.sum(dim=1)
        return ties

    def finish(self) -> None:
        """Write back what was copied."""
        copies = (self._param, self._exp_avg, self._exp_avg_sq)
        for original, copy in zip(self._originals, copies, strict=True):
            if copy.data_ptr() != original.data_ptr():
                original.copy_(copy.view(original.shape))

    def _tiles(self) -> Iterator[Tile]:
        """Cut the blocks into pieces of a size that is handled at once."""
        blocks, n = self._param.shape
        size = TILE.get(self._param.device.type, LARGE_TILE)
        together = max(1, size // n)
        for first in range(0, blocks, together):
            for start in range(0, n, size):
                yield slice(first, min(first + together, blocks)), slice(start, min(start + size, n))

    def _keys(self, blocks: slice, entries: slice) -> Tensor:
        """What ranks the entries of a tile, as integers of the same order."""
        score, grad, exp_avg = self._method["score"], self._grad[blocks, entries], self._exp_avg[blocks, entries]
        noises = None
        if score == "random":
            noises = noise(self._index(blocks, entries), self._noise_key, exp_avg.dtype)
        ranking = scores(score, grad.to(exp_avg.dtype), exp_avg, self._exp_avg_sq[blocks, entries], noises)
        return ranking.view(INTEGER[ranking.itemsize])

    def _index(self, blocks: slice, entries: slice) -> Tensor:
        """Row-major index in the whole tensor of the entries of a tile."""
        n, device = self._param.shape[1], self._param.device
        local = torch.arange(blocks.start, blocks.stop, device=device)[:, None] * n
        return self._layout.global_index(
            local + torch.arange(entries.start, entries.stop, device=device) + self._offset
        )

    def _places(self, blocks: slice, entries: slice) -> Tensor:
        """The same, counted from the end of the tensor."""
        return self._layout.size - self._index(blocks, entries)


def _count_digits(numbers: Tensor, prefix: Tensor, shift: int, width: int, counts: Tensor) -> None:
    """Add to ``counts`` (blocks, 2**width) the digits of ``numbers`` (blocks, n) that have the prefix (blocks, 1)."""
    above = min(shift + width, 8 * numbers.itemsize - 1)
    digits = (numbers >> shift) & ((1 << width) - 1)
    digits += torch.arange(len(counts), device=counts.device, dtype=digits.dtype)[:, None] << width
    counts += torch.bincount(digits[(numbers >> above) == prefix], minlength=counts.numel()).view(counts.shape)

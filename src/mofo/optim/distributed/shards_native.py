"""The local phases of the shards on a CPU, by the native library."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from mofo.optim.distributed.shard import Shard
from mofo.optim.distributed.shards import Shards
from mofo.optim.kernels.cpu.library import Library, MemoryLayout, NativeConfig, load, pack

if TYPE_CHECKING:
    from torch import Tensor

    from mofo.optim.distributed.layout import Layout, RowRange
    from mofo.optim.rule.types import Operands, Rule

BAND_SHARE = 16  # the keys inside the bracket have memory for a large block's entries divided by this,
SMALL = 1 << 12  # and for all of a block of at most this many


class NativeShards(Shards):
    """Shards that the native library updates, to the bit as plain torch does."""

    _shards: list[NativeShard]  # type: ignore[assignment]

    def add(self, operands: Operands, rule: Rule, layout: Layout, rows: RowRange, n: int, first: int) -> None:
        """Take consecutive shared blocks of a tensor; the arguments are those of `Shard`."""
        self._shards.append(NativeShard(operands, rule, layout, rows, n, first))

    def update_moments(self, low: Tensor, high: Tensor) -> None:
        """Update the moments of all entries, and collect the keys from `low` to `high`."""
        for shard in self._shards:
            shard.collect(low, high)

    def count_keys(self, low: Tensor, high: Tensor, shift: Tensor, counts: Tensor, *, guessed: bool) -> None:
        """Add to `counts` (blocks, bins + 1) int64 how many keys are in each bin."""
        for shard in self._shards:
            shard.count_guessed(low, high, shift, counts, guessed=guessed)


class NativeShard(Shard):
    """A `Shard` whose entries the native library updates."""

    def __init__(self, operands: Operands, rule: Rule, layout: Layout, rows: RowRange, n: int, first: int) -> None:
        super().__init__(operands, rule, layout, rows, n, first)
        own_rule = replace(rule, blocks=rows.blocks)
        memory = MemoryLayout.of(self._operands, own_rule)  # contiguous, so that it has no strides to be kept
        [self._packed] = pack([self._operands], own_rule, [memory])
        library = load()
        assert isinstance(library, Library)
        self._library = library
        self._config = NativeConfig()

    def collect(self, low: Tensor, high: Tensor) -> None:
        """Update the moments of all entries, and collect the keys from `low` to `high` (all blocks,)."""
        blocks, n = self._operands.param.shape
        low, high = low[self.blocks], high[self.blocks]
        self._collected = low.new_empty(blocks, 2)  # how many keys there are above, and from low to high
        self._band = torch.empty((blocks, max(n // BAND_SHARE, min(n, SMALL))), dtype=torch.int32)
        self._library.update_moments(self._packed, self._config, low, high, self._collected, self._band)
        # equal keys are only counted
        self._band_is_complete = bool(((self._collected[:, 1] <= self._band.shape[1]) & (low < high)).all())

    def count_guessed(self, low: Tensor, high: Tensor, shift: Tensor, counts: Tensor, *, guessed: bool) -> None:
        """Add to `counts` (all blocks, bins + 1) how many keys are in each bin."""
        own = (x[self.blocks] for x in (low, high, shift, counts))
        if guessed and self._band_is_complete:
            self._library.count_collected(self._collected, self._band, *own)
        else:
            self._library.count_keys(self._packed, self._config, *own)

    def move(self, keys: Tensor, ties: Tensor) -> None:
        """Update the entries with a higher key than their block's in `keys`, and the first `ties` equal ones."""
        self._library.move(self._packed, self._config, keys[self.blocks], ties[self.blocks])

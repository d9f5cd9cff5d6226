"""What one process does with its entries of a sharded tensor, by the native library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mofo.optim.distributed.shard import Shard
from mofo.optim.kernels.cpu.library import Library, Settings, load, pack

if TYPE_CHECKING:
    from torch import Tensor


class NativeShard(Shard):
    """As :class:`mofo.optim.distributed.shard.Shard`, bit for bit."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        operands = (self._param, self._grad, self._exp_avg, self._exp_avg_sq)
        method = {**self._method, "blocks": len(self._param)}
        self._packed = pack(*operands, self._t, 0, **method)
        library = load()
        assert isinstance(library, Library)
        self._library = library
        self._settings = Settings()

    def update_moments(self, low: Tensor, high: Tensor) -> None:
        """Update the moments of all entries, and collect the keys from low to high (all blocks,)."""
        blocks, n = self._param.shape
        low, high = low[self.blocks], high[self.blocks]
        self._collected = low.new_empty(blocks, 2)  # how many keys there are above, and from low to high
        capacity = max(n // self._settings.band_share, min(n, self._settings.small))
        self._band = torch.empty((blocks, capacity), dtype=torch.int32)
        self._library.update_moments(self._packed, self._settings, low, high, self._collected, self._band)
        # equal keys are only counted
        self._is_whole = bool(((self._collected[:, 1] <= self._band.shape[1]) & (low < high)).all())

    def count_keys(self, low: Tensor, high: Tensor, shift: Tensor, counts: Tensor, *, guessed: bool) -> None:
        """Add to ``counts`` (all blocks, bins + 1) how many keys are in each bin."""
        own = (x[self.blocks] for x in (low, high, shift, counts))
        if guessed and self._is_whole:
            self._library.count_collected(self._collected, self._band, *own)
        else:
            self._library.count_keys(self._packed, self._settings, *own)

    def move(self, keys: Tensor, ties: Tensor) -> None:
        """Update the entries with a higher key than their block's (blocks,), and the first ``ties`` equal ones."""
        self._library.move(self._packed, self._settings, keys[self.blocks], ties[self.blocks])

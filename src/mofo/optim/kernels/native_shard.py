"""What one process does with its entries of a sharded tensor, by the native library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mofo.optim.kernels.native import Library, Settings, load, pack
from mofo.optim.shard import Shard

if TYPE_CHECKING:
    from torch import Tensor


class NativeShard(Shard):
    """As :class:`mofo.optim.shard.Shard`, bit for bit."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        operands = (self._param, self._grad, self._exp_avg, self._exp_avg_sq)
        method = {**self._method, "blocks": len(self._param)}
        self._packed = pack(*operands, self._t, 0, **method)
        library = load()
        assert isinstance(library, Library)
        self._library = library
        self._settings = Settings()

    def update_moments(self) -> None:
        """Update the moments of all entries."""
        self._library.update_moments(self._packed, self._settings)

    def count_keys(self, low: Tensor, high: Tensor, shift: Tensor, counts: Tensor) -> None:
        """Add to ``counts`` (all blocks, bins + 1) how many keys are in each bin."""
        own = (x[self.blocks] for x in (low, high, shift, counts))
        self._library.count_keys(self._packed, self._settings, *own)

    def move(self, keys: Tensor, ties: Tensor) -> None:
        """Update the entries with a higher key than their block's (blocks,), and the first ``ties`` equal ones."""
        self._library.move(self._packed, self._settings, keys[self.blocks], ties[self.blocks])

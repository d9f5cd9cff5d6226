"""What one process has of the shared blocks of a step: the local phases, each for all of it at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mofo.optim.distributed.shard import Shard

if TYPE_CHECKING:
    from torch import Tensor

    from mofo.optim.distributed.layout import Layout, RowRange
    from mofo.optim.rule.types import Operands, Rule


class Shards:
    """Shards that one back end updates: here plain torch, one after the other.

    The phases of a step are called in the order of the methods. In what they take, `low`, `high`, `shift`, `keys` and
    `ties` are (blocks,) int64, for all shared blocks of the step.

    Args:
        workspaces: memory that back ends keep from step to step.
    """

    def __init__(self, workspaces: dict[Any, Any]) -> None:
        self._shards: list[Shard] = []

    def add(self, operands: Operands, rule: Rule, layout: Layout, rows: RowRange, n: int, first: int) -> None:
        """Take consecutive shared blocks of a tensor; the arguments are those of `Shard`."""
        self._shards.append(Shard(operands, rule, layout, rows, n, first))

    def count_sample(self, least: int, shift: int, counts: Tensor) -> None:
        """Add to `counts` (blocks, bins) int64 how many keys of a sample are in each bin, `(key - least) >> shift`.

        Keys below the first bin count as in it, those above the last one likewise. They are the keys that the entries
        will have once the moments are updated, but for their last bits; of small blocks all of them.
        """
        for shard in self._shards:
            shard.count_sample(least, shift, counts)

    def update_moments(self, low: Tensor, high: Tensor) -> None:
        """Update the moments of all entries. The keys from `low` to `high` will be asked for."""
        for shard in self._shards:
            shard.update_moments()

    def count_keys(self, low: Tensor, high: Tensor, shift: Tensor, counts: Tensor) -> None:
        """Add to `counts` (blocks, bins + 1) int64 how many keys are in each bin, as `count_bins` does."""
        for shard in self._shards:
            shard.count_keys(low, high, shift, counts)

    def tied_places(self, block: int, key: int) -> list[Tensor]:
        """Return where in the full tensor the entries of a block with this key are, counted from the tensor's end."""
        return [s.tied_places(block, key) for s in self._shards if s.blocks.start <= block < s.blocks.stop]

    def move(self, keys: Tensor, ties: Tensor) -> None:
        """Update the entries with a higher key than their block's in `keys`, and the first `ties` equal ones."""
        for shard in self._shards:
            shard.move(keys, ties)

    def finish(self) -> None:
        """Write back what was copied."""
        for shard in self._shards:
            shard.finish()

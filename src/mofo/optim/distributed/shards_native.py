"""The local phases of the shards on a CPU, each by one call of the native library."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from mofo.optim.distributed.shard import Shard, sample_stride
from mofo.optim.distributed.shards import Shards
from mofo.optim.kernels.cpu.library import MemoryLayout, NativeConfig, loaded, pack
from mofo.optim.kernels.cpu.phases import SHARE, Phases
from mofo.optim.rule.types import Operands

if TYPE_CHECKING:
    from mofo.optim.distributed.layout import Layout, RowRange
    from mofo.optim.rule.types import Rule


class NativeShard(NamedTuple):
    """Consecutive shared blocks of a tensor; the library is given addresses of what is in it."""

    operands: Operands
    rule: Rule
    layout: Layout
    rows: RowRange
    n: int
    first: int
    contiguous: Operands  # the operands, or copies
    memory: MemoryLayout

    def tied_places(self, block: int, key: int, positions: Tensor | None) -> Tensor:
        """Return what `Shards.tied_places` does, given the positions here, or None where these are not known."""
        if positions is None:
            return Shard(self.contiguous, *self[1:6]).tied_places(block, key)
        row = self.contiguous.param[0].numel()
        return self.layout.size - self.layout.global_index(positions + self.rows.start * row)


class NativeShards(Shards):
    """Shards that the native library updates, to the bit as plain torch does."""

    def __init__(self, workspaces: dict[Any, Any]) -> None:
        super().__init__(workspaces)
        if NativeShards not in workspaces:
            workspaces[NativeShards] = loaded().phases()
        self._phases: Phases = workspaces[NativeShards]
        self._native: list[NativeShard] = []

    def add(self, operands: Operands, rule: Rule, layout: Layout, rows: RowRange, n: int, first: int) -> None:
        """Take consecutive shared blocks of a tensor; the arguments are those of `Shard`."""
        contiguous = operands
        if not all(map(Tensor.is_contiguous, operands[:4])):
            param, grad, exp_avg, exp_avg_sq = map(Tensor.contiguous, operands[:4])
            contiguous = Operands(param, grad, exp_avg, exp_avg_sq, operands.step, operands.seed)
        memory = MemoryLayout.of(contiguous, rule if rule.blocks == rows.blocks else replace(rule, blocks=rows.blocks))
        self._native.append(NativeShard(operands, rule, layout, rows, n, first, contiguous, memory))

    def count_sample(self, least: int, shift: int, counts: Tensor) -> None:
        """Add to `counts` (blocks, bins) int64 how many keys of a sample are in each bin."""
        packed: list[bytes] = []
        for rule, of_rule in groupby(self._native, attrgetter("rule")):
            operands, memories = zip(*((s.contiguous, s.memory) for s in of_rule), strict=True)
            packed += pack(operands, rule, memories)
        shares = [SHARE.pack(s.first, sample_stride(s.n, s.memory.n)) for s in self._native]
        self._phases.begin(packed, shares, counts.shape[1], NativeConfig())
        self._phases.count_sample(least, shift, counts)

    def update_moments(self, low: Tensor, high: Tensor) -> None:
        """Update the moments of all entries, and all else of those above `high`; from `low` on, note what they need."""
        self._phases.update_moments(low, high)

    def count_keys(self, low: Tensor, high: Tensor, shift: Tensor, counts: Tensor) -> None:
        """Add to `counts` (blocks, bins + 1) int64 how many keys are in each bin."""
        self._phases.count_keys(low, high, shift, counts)

    def tied_places(self, block: int, key: int) -> list[Tensor]:
        """Return where in the full tensor the entries of a block with this key are, counted from the tensor's end."""
        have = [s for s in self._native if s.first <= block < s.first + s.rows.blocks]
        return [s.tied_places(block, key, self._phases.tied_positions(block, key)) for s in have]

    def move(self, keys: Tensor, ties: Tensor) -> None:
        """Update the entries with a higher key than their block's in `keys`, and the first `ties` equal ones."""
        self._phases.move(keys, ties)

    def finish(self) -> None:
        """Write back what was copied."""
        for shard in self._native:
            if shard.contiguous is not shard.operands:
                for original, copy in zip(shard.operands[:4], shard.contiguous[:4], strict=True):
                    if copy is not original:
                        original.copy_(copy)

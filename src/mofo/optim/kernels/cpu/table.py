"""Tensors as the native library reads them, whose rows are kept from step to step but for addresses and numbers."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from mofo.optim.kernels.cpu.library import ADDRESSES, LAYOUT, NUMBERS, TENSOR_SIZE, MemoryLayout, pack_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mofo.optim.rule.types import Rule

WORD = 8  # bytes of each field of struct Tensor
WORDS = TENSOR_SIZE // WORD
NUMBER_WORDS = NUMBERS.size // WORD


class Table:
    """A row for each of some tensors that have one rule.

    All rows are written at once, field by field: one after the other, they would cost more than small tensors do.

    Args:
        layouts: of the tensors.
    """

    def __init__(self, layouts: Sequence[MemoryLayout]) -> None:
        self._layouts = layouts  # they have the strides that rows point to
        self._sizes = [layout.n for layout in layouts]
        self._one_of_size = dict(zip(self._sizes, layouts, strict=True))
        before, after = bytes(ADDRESSES.size), bytes(NUMBERS.size)
        self._rows = array("Q", b"".join(before + layout.packed + after for layout in layouts))

    def rows(
        self, addresses: Sequence[array[int]], rule: Rule, steps: Sequence[float], seeds: Sequence[int]
    ) -> array[int]:
        """Return the rows for one step.

        Args:
            addresses: of parameters, gradients, first and second moments.
            rule: by which the tensors are updated.
            steps: the number of steps that each has made.
            seeds: of each, for what is random.
        """
        rows = self._rows[:]
        for position, column in enumerate(addresses):
            rows[position::WORDS] = column
        numbers = array("Q", b"".join(self._numbers(rule, steps, seeds)))
        first = (ADDRESSES.size + LAYOUT.size) // WORD
        for position in range(NUMBER_WORDS):
            rows[first + position :: WORDS] = numbers[position::NUMBER_WORDS]
        return rows

    def _numbers(self, rule: Rule, steps: Sequence[float], seeds: Sequence[int]) -> list[bytes]:
        if rule.score == "random" or rule.rounding == "stochastic":  # from seeds of their own
            each = zip(self._layouts, steps, seeds, strict=True)
            return [pack_numbers(rule, layout, int(step) + 1, seed) for layout, step, seed in each]
        packed: dict[float, dict[int, bytes]] = {step: {} for step in set(steps)}
        for step, n in set(zip(steps, self._sizes, strict=True)):
            packed[step][n] = pack_numbers(rule, self._one_of_size[n], int(step) + 1, 0)
        return [packed[step][n] for step, n in zip(steps, self._sizes, strict=True)]

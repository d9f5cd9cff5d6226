"""A mean that knows what it is the mean of, so that every measured number has a standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Errors = dict[str, float]
"""Standard errors of a task's or a probe's numbers, by their names; what has none is left out."""


class Mean(float):
    """A mean over tokens that come in units which are independent of each other: questions, windows, rows or texts.

    Tokens of one text depend on each other, so that only whole units tell how exact the mean is.

    Args:
        totals: For each unit the sum of what is averaged.
        counts: For each unit how many numbers that is the sum of; 1 each by default. Units without any are left out.

    Raises:
        ValueError: No unit counts.
    """

    totals: list[float]
    counts: list[int]

    def __new__(cls, totals: Sequence[float], counts: Sequence[int] | None = None) -> Mean:
        """Compute the mean."""
        pairs = list(zip(totals, counts or [1] * len(totals), strict=True))
        counted = [(total, count) for total, count in pairs if count]
        if not counted:
            raise ValueError("nothing to take the mean of")
        mean = super().__new__(cls, sum(total for total, _ in counted) / sum(count for _, count in counted))
        mean.totals = [total for total, _ in counted]
        mean.counts = [count for _, count in counted]
        return mean

    @property
    def error(self) -> float | None:
        """The standard error, from how much the units differ; None for a single unit.

        With units of one size it is their standard deviation divided by √n. With others the mean is a ratio of two
        sums, and this is the error of its linearisation (Cochran, Sampling Techniques, 1977, section 6.3).
        """
        units = len(self.totals)
        if units < 2:
            return None
        squares = sum((total - self * count) ** 2 for total, count in zip(self.totals, self.counts, strict=True))
        return math.sqrt(squares * units / (units - 1)) / sum(self.counts)

    def change_error(self, before: Mean) -> float | None:
        """Return the standard error of the change from an earlier mean over the same units; None if they differ.

        Units are compared with themselves: a question that both models find hard adds nothing to the error.
        """
        if self.counts != before.counts:
            return None
        return Mean([new - old for new, old in zip(self.totals, before.totals, strict=True)], self.counts).error


def errors(numbers: Mapping[str, float]) -> Errors:
    """Return the standard error of each number that is a `Mean`."""
    found = {name: value.error for name, value in numbers.items() if isinstance(value, Mean)}
    return {name: error for name, error in found.items() if error is not None}


def change_errors(before: Mapping[str, float], after: Mapping[str, float]) -> Errors:
    """Return the standard error of the change of each number that is a `Mean` over the same units in both."""
    found = {}
    for name, value in after.items():
        earlier = before.get(name)
        if isinstance(value, Mean) and isinstance(earlier, Mean):
            found[name] = value.change_error(earlier)
    return {name: error for name, error in found.items() if error is not None}

"""A mean that knows what it is the mean of, so that every measured number has a standard error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

Errors = dict[str, float]
"""Standard errors of a task's or a probe's numbers, by their names; what has none is left out."""


Stratum = tuple[int, float]
"""A stretch of units: how many they are, and their weight in the mean, a share of 1."""


class Mean(float):
    """A mean over tokens that come in units which are independent of each other: questions, windows, rows or texts.

    Tokens of one text depend on each other, so that only whole units tell how exact the mean is.

    Args:
        totals: For each unit the sum of what is averaged.
        counts: For each unit how many numbers that is the sum of; 1 each by default. Units without any are left out.
        strata: Stretches of the units, if the mean is a weighted average of their means rather than of all units.

    Raises:
        ValueError: No unit counts.
    """

    totals: list[float]
    counts: list[int]
    strata: list[Stratum]

    def __new__(
        cls, totals: Sequence[float], counts: Sequence[int] | None = None, strata: Sequence[Stratum] = ()
    ) -> Mean:
        """Compute the mean."""
        pairs = list(zip(totals, counts or [1] * len(totals), strict=True))
        counted = pairs if strata else [(total, count) for total, count in pairs if count]
        if not counted:
            raise ValueError("nothing to take the mean of")
        totals, counts = [total for total, _ in counted], [count for _, count in counted]
        strata = strata or [(len(totals), 1.0)]
        mean = super().__new__(cls, sum(weight * sum(t) / sum(c) for t, c, weight in _cut(totals, counts, strata)))
        mean.totals, mean.counts, mean.strata = totals, counts, list(strata)
        return mean

    @classmethod
    def average(cls, means: Sequence[Mean], weights: Sequence[float] | None = None) -> Mean:
        """Return the weighted average of means; by default all weigh the same."""
        shares = weights or [1 / len(means)] * len(means)
        strata = [
            (units, share * weight) for mean, share in zip(means, shares, strict=True) for units, weight in mean.strata
        ]
        return cls([t for mean in means for t in mean.totals], [c for mean in means for c in mean.counts], strata)

    @property
    def error(self) -> float | None:
        """The standard error, from how much the units differ; None if a stretch of units is a single one.

        With units of one size it is their standard deviation divided by √n. With others the mean is a ratio of two
        sums, and this is the error of its linearisation (Cochran, Sampling Techniques, 1977, section 6.3). The error
        of an average is that of its parts, which are independent.
        """
        squares = [
            (weight * error) ** 2 if (error := _error(totals, counts)) is not None else None
            for totals, counts, weight in _cut(self.totals, self.counts, self.strata)
        ]
        known = [square for square in squares if square is not None]
        return math.sqrt(sum(known)) if len(known) == len(squares) else None

    def change(self, before: Mean) -> Mean | None:
        """Return the change from an earlier mean, as the mean over their units; None if these are not the same.

        Units are compared with themselves: a question that both models find hard adds nothing to the error.
        """
        if (self.counts, self.strata) != (before.counts, before.strata):
            return None
        return Mean([new - old for new, old in zip(self.totals, before.totals, strict=True)], self.counts, self.strata)

    def change_error(self, before: Mean) -> float | None:
        """Return the standard error of `change`; None if there is none."""
        change = self.change(before)
        return None if change is None else change.error


def _cut(
    totals: Sequence[float], counts: Sequence[int], strata: Sequence[Stratum]
) -> Iterator[tuple[Sequence[float], Sequence[int], float]]:
    """Yield totals, counts and weight of each stratum."""
    start = 0
    for units, weight in strata:
        yield totals[start : start + units], counts[start : start + units], weight
        start += units


def _error(totals: Sequence[float], counts: Sequence[int]) -> float | None:
    """Return the standard error of the mean of one stratum."""
    units = len(totals)
    if units < 2:
        return None
    mean = sum(totals) / sum(counts)
    squares = sum((total - mean * count) ** 2 for total, count in zip(totals, counts, strict=True))
    return math.sqrt(squares * units / (units - 1)) / sum(counts)


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

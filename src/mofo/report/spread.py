"""Numbers over seeds: mean, spread, and what can be said of them beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from statistics import fmean, stdev
from typing import Literal

Direction = Literal["worse", "better", "unchanged"]

ENOUGH_SEEDS = 3
"""Seeds from which on a standard deviation says something."""


@dataclass(frozen=True)
class Pooled:
    """A number over the seeds of a configuration.

    Attributes:
        mean: Its mean.
        std: Its sample standard deviation; None for one seed.
        seeds: Their number.
        error: Standard error of its measurement, which more seeds do not make smaller; None if it was not recorded.
    """

    mean: float
    std: float | None
    seeds: int
    error: float | None = None

    @property
    def bar(self) -> float:
        """Half the length of an error bar: the larger of spread and standard error."""
        return max(self.std or 0.0, self.error or 0.0)

    @property
    def is_repeated(self) -> bool:
        """Whether it has seeds enough to be told from other numbers."""
        return self.seeds >= ENOUGH_SEEDS

    @property
    def direction(self) -> Direction:
        """Whether a change is beyond noise: two standard errors, and the spread over seeds."""
        noise = max(2 * (self.error or 0.0), self.std or 0.0)
        if abs(self.mean) <= noise:
            return "unchanged"
        return "worse" if self.mean > 0 else "better"


def pool(values: Sequence[float], error: float | None = None) -> Pooled:
    """Return mean and spread over seeds."""
    return Pooled(fmean(values), stdev(values) if len(values) > 1 else None, len(values), error)


def pool_known(values: Sequence[float | None], error: float | None = None) -> Pooled | None:
    """Return mean and spread; None unless every seed has the number, so that no diverged run vanishes in a mean."""
    known = [value for value in values if value is not None]
    return pool(known, error) if known and len(known) == len(values) else None


def distinguishable(a: Pooled, b: Pooled) -> bool | None:
    """Return whether two numbers differ beyond chance; None if one of them has fewer than three seeds.

    They do if the ranges mean ± standard deviation are disjoint, and if they differ by more than twice the standard
    error of their difference as well. Both were measured on the same questions, so that this is on the safe side.
    """
    if not (a.is_repeated and b.is_repeated) or a.std is None or b.std is None:
        return None
    return abs(a.mean - b.mean) > a.std + b.std and not within_error(a, b)


def within_error(a: Pooled, b: Pooled) -> bool:
    """Return whether two numbers differ by no more than twice the standard error of their difference."""
    return abs(a.mean - b.mean) <= 2 * hypot(a.error or 0.0, b.error or 0.0)

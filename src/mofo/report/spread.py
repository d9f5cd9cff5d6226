"""Numbers over seeds: mean, spread, and whether two of them can be distinguished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Pooled:
    """A number over the seeds of a configuration: mean, sample standard deviation (None for one seed) and count."""

    mean: float
    std: float | None
    seeds: int


def pool(values: Sequence[float]) -> Pooled:
    """Return mean and spread over seeds."""
    return Pooled(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def pool_known(values: Sequence[float | None]) -> Pooled | None:
    """Return mean and spread; None unless every seed has the number, so that no diverged run vanishes in a mean."""
    known = [value for value in values if value is not None]
    return pool(known) if known and len(known) == len(values) else None


def distinguishable(a: Pooled, b: Pooled) -> bool | None:
    """Return whether the ranges mean ± standard deviation are disjoint; None if one of them has no spread."""
    if a.std is None or b.std is None:
        return None
    return abs(a.mean - b.mean) > a.std + b.std

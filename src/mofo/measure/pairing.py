"""The same questions before and after: which were lost and won, and within what bounds the change lies."""

from __future__ import annotations

import math
from statistics import NormalDist

from mofo.measure.mean import Mean
from mofo.results import Paired

CONFIDENCE = 0.95

RESAMPLES = 2000
"""Draws of the bootstrap; the ends of a 95 % interval vary by about 2 % of its length from seed to seed."""


DRAWN_AT_ONCE = 4_000_000
"""Units that are drawn in one array."""


def paired(before: Mean, after: Mean) -> Paired | None:
    """Compare two means over the same units, unit by unit.

    Where each unit is right or wrong, questions that changed are counted, McNemar's exact test says whether losses and
    gains could be chance, and the interval is Newcombe's score interval for paired proportions (Statistics in Medicine
    17, 1998, method 10), which holds for few questions too, and for none that changed. Otherwise the interval is that
    of a percentile bootstrap over the units, or for a weighted average that of its standard error.

    Returns:
        The comparison; None where the units are not the same, or fewer than two.
    """
    change = after.change(before)
    if change is None or change.error is None:
        return None
    if not _right_or_wrong(before, after):
        low, high = mean_interval(change)
        return Paired(units=len(change.totals), low=low, high=high)
    from scipy.stats import binomtest

    lost = [number for number, moved in enumerate(change.totals) if moved < 0]
    won = [number for number, moved in enumerate(change.totals) if moved > 0]
    flipped = len(lost) + len(won)
    both_right = sum(old and new for old, new in zip(before.totals, after.totals, strict=True))
    if len(change.strata) > 1:
        low, high = mean_interval(change)
    else:
        low, high = newcombe_interval(int(both_right), len(lost), len(won), len(change.totals))
    return Paired(
        units=len(change.totals),
        low=low,
        high=high,
        lost=len(lost),
        won=len(won),
        p=float(binomtest(len(lost), flipped).pvalue) if flipped else 1.0,
        lost_questions=lost,
        won_questions=won,
    )


def newcombe_interval(both: int, lost: int, won: int, questions: int) -> tuple[float, float]:
    """Return the interval of the change of a share that is measured twice on the same questions.

    Args:
        both: Number of questions that are right both times.
        lost: Number of those that are right before alone.
        won: Number of those that are right after alone.
        questions: Number of all.
    """
    neither = questions - both - lost - won
    before, after = both + lost, both + won
    low_before, high_before = _wilson(before, questions)
    low_after, high_after = _wilson(after, questions)
    share_before, share_after = before / questions, after / questions
    margins = before * (questions - before) * after * (questions - after)
    covariance = both * neither - lost * won
    corrected = max(covariance - questions / 2, 0.0) if covariance > 0 else covariance  # for continuity
    correlation = corrected / math.sqrt(margins) if margins else 0.0
    change = share_after - share_before

    def width(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * correlation * a * b + b * b))

    below = width(share_after - low_after, high_before - share_before)
    above = width(high_after - share_after, share_before - low_before)
    return change - below, change + above


def mean_interval(change: Mean) -> tuple[float, float]:
    """Return the interval of a mean over units: a percentile bootstrap's, for averages that of the standard error."""
    if len(change.strata) > 1:
        half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * (change.error or 0.0)
        return change - half, change + half
    import numpy as np
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.array(change.totals, dtype=float), np.array(change.counts, dtype=float)),
        lambda total, count, axis: total.sum(axis=axis) / count.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, DRAWN_AT_ONCE // len(change.totals)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def _right_or_wrong(*means: Mean) -> bool:
    return all(count == 1 for mean in means for count in mean.counts) and all(
        total in (0, 1) for mean in means for total in mean.totals
    )


def _wilson(right: int, questions: int) -> tuple[float, float]:
    """Return Wilson's score interval of a share."""
    from scipy.stats import binomtest

    interval = binomtest(right, questions).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)

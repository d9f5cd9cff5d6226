"""Bounds on the change from a base to a tuned model: how they are written, and whether a measurement keeps them.

`divergence<0.05` bounds how much a number may rise, `harness:mmlu>-0.02` how much it may fall, and `choice` alone says
that it may not get worse beyond chance. The number is the change from the base, tuned minus base, in the direction that
the metric itself has: a loss that rises is worse, an accuracy that falls is worse. Shares are between 0 and 1: two
points of accuracy are 0.02. The divergence of the base from itself is 0, so that its change is its value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from mofo.errors import UserError, closest
from mofo.measure.kinds import probe_name
from mofo.pair import Finding, Holds, PairResults
from mofo.results import Metric

_BY_CHANCE: dict[str | None, Holds] = {"worse": "broken", "unclear": "unsure", "unchanged": "kept", "better": "kept"}
"""What an outcome of `Metric.outcome` means for a bound without a limit."""


class Bound(NamedTuple):
    """A bound on the change of what a name stands for.

    Attributes:
        name: A probe, as it is asked for or by its name, which stands for its headlines; or a metric by its label.
        sign: On which side of the limit the change must lie; None if it must only not be worse beyond chance.
        limit: The limit, in the unit that the metric has in the file.
    """

    name: str
    sign: Literal["<", ">"] | None = None
    limit: float = 0.0

    def __str__(self) -> str:
        """Return the bound as it is written."""
        return self.name if self.sign is None else f"{self.name}{self.sign}{self.limit:.12g}"


def parse_bound(text: str) -> Bound:
    """Return the bound that a text says: `NAME`, `NAME<NUMBER` or `NAME>NUMBER`.

    Raises:
        UserError: It says none.
    """
    found = re.fullmatch(r"(.+)([<>])([^<>]*)", text)
    if found is None and text and "<" not in text and ">" not in text:
        return Bound(text)
    try:
        limit = float(found[3]) if found else math.nan
    except ValueError:
        limit = math.nan
    if found is None or not math.isfinite(limit):
        raise UserError(
            f"{text} is no bound: expected NAME, NAME<NUMBER or NAME>NUMBER, such as divergence<0.05 or "
            "harness:mmlu>-0.02."
        )
    return Bound(found[1].strip(), "<" if found[2] == "<" else ">", limit)


def check_bounds(bounds: Sequence[Bound], metrics: Sequence[Metric]) -> None:
    """Check that bounds are on what is measured, and on the side on which it gets worse.

    Raises:
        UserError: One is not.
    """
    for bound in bounds:
        for metric in bounded_metrics(bound, metrics):
            _check_limit(bound, metric)


def bounded_metrics(bound: Bound, metrics: Sequence[Metric]) -> list[Metric]:
    """Return the metrics that a bound is on: the one of that label, or the headlines of the probe.

    Raises:
        UserError: There are none.
    """
    names = (bound.name, probe_name(bound.name))
    found = [metric for metric in metrics if metric.label == bound.name]
    found = found or [metric for metric in metrics if metric.source in names and metric.headline]
    if not found:
        known = dict.fromkeys(key for metric in metrics for key in (metric.source, metric.label))
        raise UserError(
            f"The bound {bound} is on {bound.name}, which is not measured{closest(bound.name, known)}: expected one "
            f"of {', '.join(known)}."
        )
    return found


def judge(bounds: Sequence[Bound], results: PairResults) -> list[Finding]:
    """Return what was found of each metric that bounds are on.

    A limit is kept if the 95 % interval of the change lies on its right side, and broken if it lies on the other; if it
    holds the limit, or if there is none, nobody can tell. Without a limit the rules of `Metric.outcome` decide. What is
    not finite is broken.

    Raises:
        UserError: As `check_bounds`.
    """
    check_bounds(bounds, results.metrics)
    return [_judge(bound, metric, results) for bound in bounds for metric in bounded_metrics(bound, results.metrics)]


def _judge(bound: Bound, metric: Metric, results: PairResults) -> Finding:
    base, tuned = results.base.point, results.tuned.point
    before, after, paired = metric.of(base), metric.of(tuned), metric.paired(tuned)
    change = None if before is None or after is None else after - before
    low, high = (paired.low, paired.high) if paired else (None, None)
    outcome: Holds
    if change is None:
        outcome = "broken"
    elif bound.sign is None:
        outcome = _BY_CHANCE[metric.outcome(base, tuned)]
    elif low is None or high is None:
        outcome = "unsure"
    else:
        room = bound.limit - high if bound.sign == "<" else low - bound.limit
        excess = low - bound.limit if bound.sign == "<" else bound.limit - high
        outcome = "kept" if room > 0 else "broken" if excess >= 0 else "unsure"
    return Finding(bound=str(bound), metric=metric.label, change=change, low=low, high=high, outcome=outcome)


def _check_limit(bound: Bound, metric: Metric) -> None:
    if bound.sign is None:
        return
    worse = "<" if not metric.higher_is_better else ">"
    if bound.sign != worse:
        better, example = ("higher", ">-0.02") if metric.higher_is_better else ("lower", "<0.05")
        raise UserError(
            f"The bound {bound} is on the wrong side: {metric.label} is better when {better}, so say how far it may "
            f"get worse, such as {bound.name}{example}."
        )
    if metric.scale == 100 and abs(bound.limit) >= 1:
        raise UserError(
            f"The bound {bound} is beyond all that {metric.label} can change: it is a share between 0 and 1, of which "
            "two points are 0.02."
        )

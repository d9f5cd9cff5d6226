"""Comparing methods at equal learning.

A run is a path of points (held-out loss, forgotten) that starts at the base (nothing forgotten) and goes through
its checkpoints. Two methods are compared where their paths reach the same held-out loss, so that a method cannot
look better by having learned less. Everything here is pure: results in, numbers out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

from mofo.report.comparison import DISTANCE, Measure, Results, Run, Setting, finite, methods, settings

Path = list[tuple[float, float]]
HIGHER_IS_BETTER = {"accuracy", "log_probability"}
SHARES = (1.0, 0.95, 0.9, 0.8)  # of the learning that all methods have in common


@dataclass(frozen=True)
class Pooled:
    """A number over the seeds of a setting: mean, sample standard deviation (None for one seed) and count."""

    mean: float
    std: float | None
    seeds: int


@dataclass(frozen=True)
class Best:
    """The setting of a method that forgot least at some held-out loss.

    `reached` of the `tried` settings of the method got to this loss, `early` of them before their first checkpoint, so
    that their amounts there rest on a straight line from the base, not on measurements. They are left out unless all
    were early, which is when `from_base` is True.
    """

    setting: Setting
    amount: Pooled
    reached: int
    tried: int
    early: int

    @property
    def from_base(self) -> bool:
        """Whether the amount is read off a straight line from the base."""
        return self.early == self.reached


@dataclass(frozen=True)
class EqualLearning:
    """All methods at one held-out loss. A method that did not reach it, or lacks the measure, has no entry."""

    target: float
    best: dict[tuple[str, Measure], Best]


def pool(values: Sequence[float]) -> Pooled:
    """Mean and spread over seeds."""
    return Pooled(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def told_apart(a: Pooled, b: Pooled) -> bool | None:
    """Whether the ranges mean ± standard deviation are disjoint; None when one of them has no spread."""
    if a.std is None or b.std is None:
        return None
    return abs(a.mean - b.mean) > a.std + b.std


def forgotten(base: dict[str, Any], point: dict[str, Any], probe: str, metric: str) -> float | None:
    """How much worse a measured point is than the base: positive means forgotten. None if it was not measured."""
    if (probe, metric) == DISTANCE:
        return finite((point.get("distance") or {}).get(metric))
    before = finite(base["forgotten"].get(probe, {}).get(metric))
    after = finite(point["forgotten"].get(probe, {}).get(metric))
    if before is None or after is None:
        return None
    return before - after if metric in HIGHER_IS_BETTER else after - before


def path(base: dict[str, Any], run: Run, probe: str, metric: str) -> Path:
    """The points (held-out loss, forgotten) of a run in order of time, the base first."""
    points = [(base["learned"]["loss"], 0.0)]
    for point in run["points"]:
        loss, amount = finite(point["learned"]["loss"]), forgotten(base, point, probe, metric)
        if loss is not None and amount is not None:
            points.append((loss, amount))
    return points


def at_loss(points: Path, target: float) -> float | None:
    """What was forgotten where a path first reaches a held-out loss, linear between checkpoints; None if never."""
    if points[0][0] <= target:
        return points[0][1]
    for before, after in pairwise(points):
        if after[0] <= target:
            return _between(before, after, target)
    return None


def least_at_loss(points: Path, target: float) -> float | None:
    """The least that was forgotten anywhere on a path at a held-out loss of `target` or lower; None if never there."""
    amounts = [amount for loss, amount in points if loss <= target]
    for before, after in pairwise(points):
        if min(before[0], after[0]) < target < max(before[0], after[0]):
            amounts.append(_between(before, after, target))
    return min(amounts, default=None)


def front(results: Results, method: str, probe: str, metric: str, resolution: int = 100) -> list[tuple[float, Pooled]]:
    """The least forgetting at which a method learned at least so much, from the base to its lowest held-out loss.

    Per setting the mean over seeds (where all of them got there), then the least over settings. The mean never
    falls as the held-out loss falls.

    Args:
        results: The results.
        method: The method.
        probe: The probe.
        metric: The metric of the probe.
        resolution: Number of evenly spaced losses, besides those that were measured.
    """
    groups = [
        [path(results["base"], run, probe, metric) for run in runs] for runs in _settings(results, method).values()
    ]
    losses = {loss for paths in groups for points in paths for loss, _ in points}
    start, end = results["base"]["learned"]["loss"], min(losses)
    losses |= {start + (end - start) * i / resolution for i in range(resolution + 1)}
    envelope = []
    for loss in sorted((loss for loss in losses if loss <= start), reverse=True):
        amounts = [[least_at_loss(points, loss) for points in paths] for paths in groups]
        reached = [over_seeds for over_seeds in amounts if None not in over_seeds]
        if reached:
            envelope.append((loss, pool(min(reached, key=fmean))))
    return envelope


def lowest_loss(results: Results, method: str) -> float:
    """The lowest held-out loss that all seeds of some setting of a method reached; the base's if it never learned."""
    base_loss = results["base"]["learned"]["loss"]

    def lowest(run: Run) -> float:
        losses = [finite(point["learned"]["loss"]) for point in run["points"]]
        return min([base_loss, *(loss for loss in losses if loss is not None)])

    return min(max(lowest(run) for run in runs) for runs in _settings(results, method).values())


def common_loss(results: Results, of: Sequence[str] | None = None) -> float | None:
    """The lowest held-out loss that every method (or each of `of`) reached; None if one of them never learned."""
    loss = max((lowest_loss(results, method) for method in of or methods(results)), default=None)
    return loss if loss is not None and loss < results["base"]["learned"]["loss"] else None


def default_targets(results: Results) -> list[float]:
    """Held-out losses to compare at, lowest first: the common one and a few between it and the base."""
    deepest = common_loss(results)
    if deepest is None:
        return []
    start = results["base"]["learned"]["loss"]
    return [start + share * (deepest - start) if share < 1 else deepest for share in SHARES]


def equal_learning(results: Results, target: float, measures: Sequence[Measure]) -> EqualLearning:
    """Per method and measure the setting that forgot least when it first reached the held-out loss `target`.

    A setting counts only if all of its seeds reached the target: leaving out those that did not would flatter it.
    Where a method has settings with checkpoints on both sides of the target, the others are not considered.
    """
    best: dict[tuple[str, Measure], Best] = {}
    for method in methods(results):
        groups = _settings(results, method)
        for measure in measures:
            reached = []
            for setting, runs in groups.items():
                paths = [path(results["base"], run, *measure) for run in runs]
                amounts = [at_loss(points, target) for points in paths]
                if None not in amounts:
                    from_base = any(len(points) > 1 and points[1][0] < target for points in paths)
                    reached.append((from_base, pool(amounts), setting))
            if reached:
                early = sum(from_base for from_base, *_ in reached)
                _, amount, setting = min(reached, key=lambda entry: (entry[0], entry[1].mean))
                best[method, measure] = Best(setting, amount, len(reached), len(groups), early)
    return EqualLearning(target, best)


def _settings(results: Results, method: str) -> dict[Setting, list[Run]]:
    return {setting: runs for setting, runs in settings(results).items() if setting.method == method}


def _between(before: tuple[float, float], after: tuple[float, float], target: float) -> float:
    """The amount at the loss `target` on the straight line between two points (loss, amount)."""
    share = (target - before[0]) / (after[0] - before[0])
    return before[1] + share * (after[1] - before[1])

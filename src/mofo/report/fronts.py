"""Comparing methods at equal learning.

A run is a trajectory of points (held-out loss, forgotten) that starts at the base (nothing forgotten) and goes through
its checkpoints. Two methods are compared where their trajectories reach the same held-out loss, so that a method cannot
look better by having learned less. A run that was past a loss at its first checkpoint stands there with that
checkpoint: a model that learned more and had forgotten this, which says nothing of a run that forgot less, but all that
is needed of one that forgot more. Everything here is pure: a comparison in, numbers out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from mofo.report.comparison import Comparison, Configuration, Trajectory
from mofo.report.spread import Pooled, distinguishable, pool_known
from mofo.results import Metric, Run

SHARES = (1.0, 0.95, 0.9, 0.8)
"""Where methods are compared, as shares of the learning that all of them have in common."""


@dataclass(frozen=True)
class Best:
    """The configuration of a method that forgot least among those that got to some held-out loss.

    Where some of these have seeds enough to be told from others, it is one of them: the least of many single runs is
    partly luck.

    Attributes:
        configuration: The configuration.
        amount: What it had forgotten when it first got there.
        loss: The held-out loss at which it had forgotten this: a lower one if it is `early`.
        early: Whether a run of it was past the loss at its first checkpoint, so that the amount is that checkpoint's.
        reached: Number of configurations of the method that got there.
        passed: Number of those that are early.
        tried: Number of configurations of the method.
    """

    configuration: Configuration
    amount: Pooled
    loss: float
    early: bool
    reached: int
    passed: int
    tried: int

    def comparable(self, other: Best) -> bool:
        """Return whether it can be said which of the two forgot less: the one with less has learned at least as much.

        Where one learned more and forgot more, there is no telling what it had forgotten on its way.
        """
        less, more = sorted([self, other], key=lambda best: best.amount.mean)
        return less.loss <= more.loss

    def told_apart(self, other: Best) -> bool | None:
        """Return whether the two differ beyond chance; None if too few seeds or checkpoints tell."""
        return distinguishable(self.amount, other.amount) if self.comparable(other) else None


@dataclass(frozen=True)
class EqualLearning:
    """All methods at one held-out loss. A method that did not reach it, or lacks the metric, has no entry."""

    target: float
    best: dict[tuple[str, Metric], Best]


def at_loss(points: Trajectory, target: float) -> float | None:
    """Return the amount where a trajectory first reaches a held-out loss; None if never.

    It is linear between checkpoints. Between base and first checkpoint nothing was measured: there it is the latter's.
    """
    if points[0][0] <= target:
        return points[0][1]
    if _passed(points, target):
        return points[1][1]
    for before, after in pairwise(points):
        if after[0] <= target:
            return _between(before, after, target)
    return None


def least_at_loss(points: Trajectory, target: float) -> float | None:
    """Return the least amount anywhere on a trajectory at a held-out loss of `target` or lower; None if never there."""
    amounts = [amount for loss, amount in points if loss <= target]
    for before, after in pairwise(points):
        if min(before[0], after[0]) < target < max(before[0], after[0]):
            amounts.append(_between(before, after, target))
    return min(amounts, default=None)


def front(comparison: Comparison, method: str, metric: Metric, resolution: int = 100) -> list[tuple[float, Pooled]]:
    """Return the least forgetting at which a method learned at least as much, from the base to its lowest loss.

    Per configuration the mean over seeds (where all of them got there), then the least over configurations. The mean
    never falls as the held-out loss falls.

    Args:
        comparison: The comparison.
        method: The method.
        metric: What is forgotten.
        resolution: Number of evenly spaced losses, besides those that were measured.
    """
    groups = [
        [comparison.trajectory(run, metric) for run in configuration.runs]
        for configuration in comparison.of_method(method)
    ]
    losses = {loss for trajectories in groups for points in trajectories for loss, _ in points}
    start, end = comparison.base_loss, min(losses)
    losses |= {start + (end - start) * i / resolution for i in range(resolution + 1)}
    envelope = []
    for loss in sorted((loss for loss in losses if loss <= start), reverse=True):
        amounts = [pool_known([least_at_loss(points, loss) for points in trajectories]) for trajectories in groups]
        reached = [amount for amount in amounts if amount is not None]
        if reached:
            envelope.append((loss, min(reached, key=lambda amount: amount.mean)))
    return envelope


def lowest_loss(comparison: Comparison, method: str, seeds: int = 1) -> float:
    """Return the lowest held-out loss that all seeds of some configuration reached; the base's if none learned.

    Args:
        comparison: The comparison.
        method: The method.
        seeds: The fewest seeds of a configuration that counts; one of the method's has as many.
    """

    def lowest(run: Run) -> float:
        return min(loss for loss, _ in comparison.trajectory(run, comparison.learning))

    counted = [c for c in comparison.of_method(method) if len(c.runs) >= seeds]
    return min(max(lowest(run) for run in configuration.runs) for configuration in counted)


def common_loss(comparison: Comparison, methods: Sequence[str], seeds: int = 1) -> float | None:
    """Return the lowest held-out loss that each of the methods reached; None if one of them never learned.

    Args:
        comparison: The comparison.
        methods: The methods.
        seeds: The fewest seeds of a configuration that counts; each of the methods has one with as many.
    """
    loss = max((lowest_loss(comparison, method, seeds) for method in methods), default=None)
    return loss if loss is not None and loss < comparison.base_loss else None


def default_targets(comparison: Comparison) -> list[float]:
    """Return the losses to compare at, lowest first: the lowest that all methods reached, and a few above it."""
    deepest = common_loss(comparison, comparison.methods)
    if deepest is None:
        return []
    start = comparison.base_loss
    return [start + share * (deepest - start) if share < 1 else deepest for share in SHARES]


def equal_learning(comparison: Comparison, target: float, metrics: Sequence[Metric]) -> EqualLearning:
    """Return, per method and metric, the configuration that forgot least when it first reached a held-out loss.

    A configuration counts only if all of its seeds reached the loss: leaving out those that did not would flatter it.
    """
    best = {}
    for method in comparison.methods:
        for metric in metrics:
            found = _best(comparison.of_method(method), comparison, target, metric)
            if found is not None:
                best[method, metric] = found
    return EqualLearning(target, best)


def _best(tried: list[Configuration], comparison: Comparison, target: float, metric: Metric) -> Best | None:
    reached: list[tuple[Pooled, float, Configuration]] = []
    for configuration in tried:
        trajectories = [comparison.trajectory(run, metric) for run in configuration.runs]
        amount = pool_known(
            [at_loss(points, target) for points in trajectories], comparison.error(configuration, metric)
        )
        if amount is not None:
            passed = any(_passed(points, target) for points in trajectories)
            loss = fmean(min(points[1][0], target) for points in trajectories) if passed else target
            reached.append((amount, loss, configuration))
    if not reached:
        return None
    repeated = [entry for entry in reached if entry[0].is_repeated]
    amount, loss, configuration = min(repeated or reached, key=lambda entry: entry[0].mean)
    passed_by = sum(other < target for _, other, _ in reached)
    return Best(configuration, amount, loss, loss < target, len(reached), passed_by, len(tried))


def _passed(points: Trajectory, target: float) -> bool:
    """Return whether a trajectory that starts above a held-out loss is below it at its first checkpoint."""
    return len(points) > 1 and points[1][0] < target < points[0][0]


def _between(before: tuple[float, float], after: tuple[float, float], target: float) -> float:
    """Return the amount at the loss `target` on the straight line between two points (loss, amount)."""
    share = (target - before[0]) / (after[0] - before[0])
    return before[1] + share * (after[1] - before[1])

"""The verdict: what was measured, in one or two honest sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mofo.report.comparison import Comparison
from mofo.report.formatting import joined, measured, plural, span
from mofo.report.fronts import Best, EqualLearning, common_loss, default_targets, equal_learning
from mofo.report.spread import distinguishable
from mofo.results import Metric

Outcome = Literal["less", "more", "same"]


def verdict(comparison: Comparison) -> str:
    """Say how two methods compare at equal learning, whoever wins, and how sure that is.

    The first method that is not the reference is compared with the reference. They differ on a metric if the ranges
    mean ± standard deviation over seeds do not overlap; with one seed, if the numbers differ.
    """
    sentence = _sentence(comparison)
    return sentence if comparison.results.complete else f"Unfinished; so far: {sentence}"


@dataclass(frozen=True)
class _Match:
    """Two methods at the same held-out loss; the second is the reference."""

    comparison: Comparison
    pair: tuple[str, str]
    at: EqualLearning

    @property
    def labels(self) -> tuple[str, str]:
        ours, theirs = self.pair
        return self.comparison.label(ours), self.comparison.label(theirs)

    def both(self, metric: Metric) -> tuple[Best, Best]:
        ours, theirs = self.pair
        return self.at.best[ours, metric], self.at.best[theirs, metric]

    def shared(self, metrics: list[Metric]) -> list[Metric]:
        """Return those of the metrics that both methods have here."""
        return [metric for metric in metrics if all((method, metric) in self.at.best for method in self.pair)]

    def outcome(self, metric: Metric) -> Outcome:
        """Return whether our method forgot less or more than the reference, or the same within the spread."""
        a, b = (best.amount for best in self.both(metric))
        if distinguishable(a, b) is False or a.mean == b.mean:
            return "same"
        return "less" if a.mean < b.mean else "more"

    def amounts(self, metric: Metric) -> str:
        """Return both amounts, and the difference in percent where that means something."""
        a, b = (best.amount for best in self.both(metric))
        outcome, percent = self.outcome(metric), ""
        if outcome != "same" and b.mean > 0 and _is_distance_from_base(self.comparison, metric):
            percent = f", {abs(100 * (a.mean / b.mean - 1)):.0f} % {outcome}"
        return f"{measured(a, metric)} against {measured(b, metric)}{percent}"


def _is_distance_from_base(comparison: Comparison, metric: Metric) -> bool:
    """Return whether a metric is 0 for the base and never better than that, so that a ratio of amounts has a meaning.

    A divergence is; the change of a loss, which can have either sign, is not.
    """
    amounts = [comparison.amount(metric, point) for run in comparison.runs for point in run.points]
    is_zero = metric.kind == "distance" or metric.of(comparison.results.base) == 0
    return is_zero and all(amount >= 0 for amount in amounts if amount is not None)


def _sentence(comparison: Comparison) -> str:
    if not comparison.runs:
        return "no run has been measured yet."
    if comparison.pair is None:
        return _alone(comparison, comparison.methods[0])
    label = comparison.learning.label
    ours, theirs = (comparison.label(method) for method in comparison.pair)
    target = common_loss(comparison, comparison.pair)
    if target is None:
        methods = [method for method in comparison.pair if common_loss(comparison, [method]) is None]
        never = joined([comparison.label(method) for method in methods])
        return f"{ours} and {theirs} cannot be compared at equal learning: {never} never got below the base's {label}."
    at = equal_learning(comparison, target, [*comparison.probe_headlines, *comparison.distance_headlines])
    match = _Match(comparison, comparison.pair, at)
    probes, loss = match.shared(comparison.probe_headlines), comparison.loss_text(target)
    if not probes:
        return f"{ours} and {theirs} cannot be compared: no probe measured both at {label} {loss}."
    if early := _passed_early(match, probes):
        late = theirs if early == ours else ours
        return (
            f"{ours} and {theirs} cannot be compared at equal learning: the lowest {label} of {late} was {loss}, and "
            f"{early} was past it before its first checkpoint."
        )
    outcome = _outcomes(match, probes) + _elsewhere(match, probes) + _distances(match)
    return f"At equal learning ({label} {loss}), {outcome}. {_basis(match, probes)}"


def _passed_early(match: _Match, probes: list[Metric]) -> str | None:
    """Return the method whose amounts rest on a straight line from the base, or None."""
    for method, label in zip(match.pair, match.labels, strict=True):
        if any(match.at.best[method, metric].from_base for metric in probes):
            return label
    return None


def _outcomes(match: _Match, probes: list[Metric]) -> str:
    """Return the probes grouped by their outcome."""
    ours, theirs = match.labels
    phrases: dict[Outcome, tuple[str, str]] = {
        "less": (f"{ours} forgot less than {theirs} on", "less on"),
        "more": (f"{ours} forgot more than {theirs} on", "more on"),
        "same": (f"{ours} and {theirs} cannot be distinguished on", "and the same within the spread on"),
    }
    parts: list[str] = []
    for outcome, (first, later) in phrases.items():
        found = [metric for metric in probes if match.outcome(metric) == outcome]
        if outcome == "same" and parts:  # the table has the amounts
            clauses = [metric.label for metric in found]
        else:
            clauses = [f"{metric.label} ({match.amounts(metric)})" for metric in found]
        if clauses:
            parts.append(f"{later if parts else first} {joined(clauses)}")
    return ", ".join(parts)


def _elsewhere(match: _Match, probes: list[Metric]) -> str:
    """Return the probes whose winner is the other method at a higher held-out loss: the fronts cross.

    Losses that a configuration passed before its first checkpoint say nothing: it is left out there, and might be the
    best.
    """
    swapped: dict[Metric, float] = {}
    for target in default_targets(match.comparison):
        other = _Match(match.comparison, match.pair, equal_learning(match.comparison, target, probes))
        for metric in other.shared(probes):
            early = any(best.early for best in other.both(metric))
            is_swapped = {match.outcome(metric), other.outcome(metric)} == {"less", "more"}
            if target > match.at.target and is_swapped and not early:
                swapped.setdefault(metric, target)
    crossings = [f"{metric.label} at {match.comparison.loss_text(loss)}" for metric, loss in swapped.items()]
    return f", but the other way round on {joined(crossings)}" if crossings else ""


def _distances(match: _Match) -> str:
    metrics = match.shared(match.comparison.distance_headlines)
    return "".join(f"; {metric.label}: {match.amounts(metric)}" for metric in metrics)


def _basis(match: _Match, probes: list[Metric]) -> str:
    """Return how many configurations and seeds the comparison rests on."""
    entries = [[match.at.best[method, metric] for metric in probes] for method in match.pair]
    reached = " and ".join(f"{max(best.reached for best in mine)} of {mine[0].tried}" for mine in entries)
    seeds = [best.amount.seeds for mine in entries for best in mine]
    if max(seeds) == 1:
        spread = "one seed each: no spread, so small differences may be chance"
    elif min(seeds) == 1:
        spread = "some with one seed: no spread"
    else:
        spread = f"{span(seeds)} seeds each"
    label = match.comparison.learning.label
    return f"Each amount is from the best configuration that reached this {label} ({reached}; {spread})."


def _alone(comparison: Comparison, method: str) -> str:
    """Return the sentence about results of a single method."""
    ours, label = comparison.label(method), comparison.learning.label
    target = common_loss(comparison, [method])
    if target is None:
        return f"{ours} is the only method, and it never got below the base's {label}."
    best = equal_learning(comparison, target, comparison.probe_headlines).best
    amounts = [f"{metric.label} {measured(entry.amount, metric)}" for (_, metric), entry in best.items()]
    return (
        f"{ours} is the only method, so nothing is compared. At its lowest {label}, {comparison.loss_text(target)}, it "
        f"had forgotten {joined(amounts) if amounts else 'nothing that was measured'} "
        f"({plural(len(comparison.configurations), 'configuration')})."
    )

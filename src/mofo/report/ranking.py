"""Methods in the order of what they forgot at equal learning, and which of them can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mofo.report.comparison import Comparison, Configuration
from mofo.report.formatting import joined
from mofo.report.fronts import Best, EqualLearning, common_loss, equal_learning, lowest_loss
from mofo.report.spread import ENOUGH_SEEDS
from mofo.results import Metric

_SHARE = 0.5  # of the most that any method learned: who learned less would move the comparison to where little happened


@dataclass(frozen=True)
class Ranking:
    """Methods at one held-out loss, ordered by one metric.

    Attributes:
        target: The loss.
        metric: The metric.
        at: Every method's best by every metric.
        methods: The methods that are compared: those that can be judged, and then the others; within each, those that
            forgot least first.
        absent: The other measured methods, and why each of them is not compared.
    """

    target: float
    metric: Metric
    at: EqualLearning
    methods: list[str]
    absent: dict[str, str]

    def best(self, method: str) -> Best:
        """Return a method's best configuration by the metric."""
        return self.at.best[method, self.metric]

    def told_apart(self, method: str, other: str) -> bool | None:
        """Return whether two methods differ beyond chance; None if too few seeds or checkpoints tell."""
        return self.best(method).told_apart(self.best(other))

    @property
    def judged(self) -> list[str]:
        """The methods that have seeds enough to be told apart; all of them if none has."""
        return [method for method in self.methods if self.best(method).amount.is_repeated] or self.methods

    @property
    def tied(self) -> list[str]:
        """The judged methods that the first cannot be told apart from, itself included."""
        first, *others = self.judged
        return [first, *(other for other in others if not self.told_apart(first, other))]


def rank(comparison: Comparison) -> Ranking | None:
    """Return the methods in the order of what they forgot at equal learning; None if nothing can be compared.

    They are ordered by the first headline of the probes on which some method got worse than the base beyond noise, or
    by the first headline if none did. What has too few seeds to be told from chance comes last, and where two methods
    have enough it decides neither where methods are compared nor by what.
    """
    candidates = compared_methods(comparison)
    deciding, seeds = _deciding(comparison, candidates)
    target = common_loss(comparison, deciding, seeds)
    headlines = comparison.probe_headlines
    if target is None:
        return None
    methods = [method for method in candidates if lowest_loss(comparison, method) <= target]
    metrics = [*comparison.forgotten, *comparison.distance_headlines]
    at = equal_learning(comparison, target, metrics)
    shared = [metric for metric in headlines if all((method, metric) in at.best for method in methods)]
    if not shared:
        return None
    lost = [m for m in shared if any(at.best[method, m].amount.direction == "worse" for method in deciding)]
    metric = [*lost, *shared][0]
    amounts = {method: at.best[method, metric].amount for method in methods}
    ordered = sorted(methods, key=lambda method: (not amounts[method].is_repeated, amounts[method].mean))
    absent = {method: _why(comparison, method) for method in comparison.methods if method not in methods}
    return Ranking(target, metric, at, ordered, absent)


def compared_loss(comparison: Comparison, methods: Sequence[str]) -> float | None:
    """Return the lowest held-out loss that those of the methods reached which decide; None if one never learned."""
    deciding, seeds = _deciding(comparison, methods)
    return common_loss(comparison, deciding, seeds)


def _deciding(comparison: Comparison, methods: Sequence[str]) -> tuple[Sequence[str], int]:
    """Return the methods by which it is decided where all are compared, and the fewest seeds of what counts of them."""
    repeated = [
        method
        for method in methods
        if any(len(c.runs) >= ENOUGH_SEEDS for c in comparison.of_method(method))
        and lowest_loss(comparison, method, ENOUGH_SEEDS) < comparison.base_loss
    ]
    return (repeated, ENOUGH_SEEDS) if len(repeated) > 1 else (methods, 1)


def compared_methods(comparison: Comparison) -> list[str]:
    """Return the methods that learned enough to be compared: half of what the best learned, or any if they are two."""
    learned = {method: comparison.base_loss - lowest_loss(comparison, method) for method in comparison.methods}
    most = max(learned.values(), default=0.0)
    least = _SHARE * most if len(learned) > 2 else 0.0
    return [method for method, amount in learned.items() if amount > 0 and amount >= least]


def _why(comparison: Comparison, method: str) -> str:
    """Return why a method is not compared."""
    configurations = comparison.of_method(method)
    texts = [text for c in configurations if (text := comparison.divergence_text(c))]
    if len(texts) == len(configurations):
        return joined(list(dict.fromkeys(texts)))
    lowest = lowest_loss(comparison, method)
    if lowest >= comparison.base_loss:
        return f"never got {comparison.below} the base's {comparison.learning.label}"
    return f"learned too little, {comparison.loss_text(lowest)} at best"


def at_edge(comparison: Comparison, configuration: Configuration, setting: str) -> bool:
    """Return whether a configuration has the lowest value of a setting that its method was tried with."""
    values = [c.settings[setting] for c in comparison.of_method(configuration.method) if setting in c.settings]
    return setting in configuration.settings and configuration.settings[setting] == min(values, key=float)

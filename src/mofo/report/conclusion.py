"""The verdict: what was measured, in a few honest sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mofo.report.comparison import Comparison
from mofo.report.formatting import joined, measured, plural, span
from mofo.report.fronts import Best, EqualLearning, common_loss, default_targets, equal_learning
from mofo.report.ranking import Ranking, at_edge, compared_loss, rank
from mofo.report.spread import ENOUGH_SEEDS, Pooled, within_error
from mofo.results import Metric

Outcome = Literal["less", "more", "same", "unknown"]
_Phrase = tuple[Outcome, str]
_MOST_AMOUNTS = 3  # probes of which a sentence can hold the numbers


def verdict(comparison: Comparison) -> str:
    """Say how methods compare at equal learning, whoever wins, and how sure that is.

    Two methods are compared on every probe, several on the one that their ranking goes by. What got better than the
    base was not forgotten but gained. Runs that diverged are named and not compared.
    """
    sentences = " ".join(filter(None, [_sentence(comparison), _diverged(comparison)]))
    return f"Unfinished, {comparison.missing}; so far: {sentences}" if comparison.missing else sentences


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
        """Return whether our method has the smaller or the larger change, or the same within noise."""
        ours, theirs = self.both(metric)
        if not ours.comparable(theirs):
            return "unknown"
        a, b = ours.amount, theirs.amount
        if ours.told_apart(theirs) is False or a.mean == b.mean or within_error(a, b):
            return "same"
        return "less" if a.mean < b.mean else "more"

    def phrase(self, metric: Metric) -> _Phrase:
        """Return the outcome and how it is said: what is better than the base was not forgotten."""
        a, b = (best.amount.mean for best in self.both(metric))
        outcome = self.outcome(metric)
        if outcome in ("same", "unknown"):
            return outcome, "cannot be told from" if outcome == "same" else "cannot be compared with"
        if outcome == "less":
            return outcome, "forgot less than" if b > 0 else "gained more than"
        return outcome, "forgot more than" if a > 0 else "gained less than"

    def amounts(self, metric: Metric) -> str:
        """Return both amounts, and the difference in percent where that means something."""
        a, b = (best.amount for best in self.both(metric))
        outcome, percent = self.outcome(metric), ""
        if outcome in ("less", "more") and b.mean > 0 and _is_distance_from_base(self.comparison, metric):
            percent = f", {abs(100 * (a.mean / b.mean - 1)):.0f} % {outcome}"
        return f"{_change(a, metric)} against {_change(b, metric)}{percent}"


def _change(amount: Pooled, metric: Metric) -> str:
    """Return a change in words that need no sign convention."""
    text = measured(Pooled(abs(amount.mean), amount.std, amount.seeds), metric)
    return f"{text} gained" if amount.mean < 0 else text


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
    if len(comparison.methods) > 2:
        return _many(comparison)
    label = comparison.learning.label
    ours, theirs = (comparison.label(method) for method in comparison.pair)
    target = compared_loss(comparison, comparison.pair)
    if target is None:
        return f"{ours} and {theirs} cannot be compared at equal learning: {_never(comparison, comparison.pair)}."
    at = equal_learning(comparison, target, comparison.probe_headlines)
    match = _Match(comparison, comparison.pair, at)
    probes, loss = match.shared(comparison.probe_headlines), comparison.loss_text(target)
    if not probes:
        return f"{ours} and {theirs} cannot be compared: no probe measured both at {label} {loss}."
    if all(match.outcome(metric) == "unknown" for metric in probes):
        early, late = (ours, theirs) if match.both(probes[0])[0].early else (theirs, ours)
        return (
            f"{ours} and {theirs} cannot be compared at equal learning: the {comparison.lowest} {label} of {late} "
            f"was {loss}, and {early} was past it before its first checkpoint."
        )
    outcome = _outcomes(match, probes) + _elsewhere(match, probes)
    early_ones = _early(comparison, [(m, match.at.best[m, metric]) for m in match.pair for metric in probes])
    basis = f"{_basis(match, probes)}{early_ones}{_untried(comparison, match.at)}"
    return f"At equal learning ({label} {loss}), {outcome}. {basis}"


def _never(comparison: Comparison, methods: Sequence[str]) -> str:
    """Return which methods did not learn: all of their runs diverged, or none got below the base's loss."""
    diverged, never = [], []
    for method in methods:
        if all(comparison.divergence_text(c) for c in comparison.of_method(method)):
            diverged.append(comparison.label(method))
        elif common_loss(comparison, [method]) is None:
            never.append(comparison.label(method))
    clauses = [f"every configuration of {joined(diverged)} diverged"] if diverged else []
    clauses += [f"{joined(never)} never got {comparison.below} the base's {comparison.learning.label}"] if never else []
    return joined(clauses)


def _early(comparison: Comparison, entries: Sequence[tuple[str, Best]]) -> str:
    """Return which methods' amounts are those of models that had learned more."""
    early = list(dict.fromkeys(comparison.full_name(best.configuration) for _, best in entries if best.early))
    if not early:
        return ""
    return f" {joined(early)} had learned more at the first checkpoint already, and is taken as it was there."


def _outcomes(match: _Match, probes: list[Metric]) -> str:
    """Return the probes grouped by their outcome, wins and losses first."""
    ours, theirs = match.labels
    groups: dict[_Phrase, list[Metric]] = {}
    for metric in probes:
        groups.setdefault(match.phrase(metric), []).append(metric)
    order: tuple[Outcome, ...] = ("less", "more", "same", "unknown")
    parts: list[str] = []
    for outcome, words in sorted(groups, key=lambda phrase: order.index(phrase[0])):
        found = groups[outcome, words]
        brief = outcome in ("same", "unknown") or len(probes) > _MOST_AMOUNTS  # the table has the amounts
        clauses = [metric.label if brief else f"{metric.label} ({match.amounts(metric)})" for metric in found]
        whom = f"{ours} {words} {theirs}" if not parts else f"{words} it"
        parts.append(f"{whom} on {joined(clauses)}")
    return joined(parts)


def _elsewhere(match: _Match, probes: list[Metric]) -> str:
    """Return the probes whose winner is the other method at a higher held-out loss: the fronts cross."""
    swapped: dict[Metric, float] = {}
    for target in default_targets(match.comparison):
        other = _Match(match.comparison, match.pair, equal_learning(match.comparison, target, probes))
        for metric in other.shared(probes):
            is_swapped = {match.outcome(metric), other.outcome(metric)} == {"less", "more"}
            if target > match.at.target and is_swapped:
                swapped.setdefault(metric, target)
    crossings = [f"{metric.label} at {match.comparison.loss_text(loss)}" for metric, loss in swapped.items()]
    return f", but the other way round on {joined(crossings)}" if crossings else ""


def _basis(match: _Match, probes: list[Metric]) -> str:
    """Return how many configurations and seeds the comparison rests on."""
    entries = [[match.at.best[method, metric] for metric in probes] for method in match.pair]
    reached = " and ".join(f"{max(best.reached for best in mine)} of {mine[0].tried}" for mine in entries)
    seeds = [best.amount.seeds for mine in entries for best in mine]
    if max(seeds) == 1:
        spread = "One seed each: no spread, so these differences may be chance"
    elif min(seeds) < ENOUGH_SEEDS:
        spread = f"{span(seeds)} seeds each: too few to tell differences from chance"
    else:
        spread = f"{span(seeds)} seeds each"
    return f"{spread}; from the best of the configurations that learned as much ({reached})."


def _untried(comparison: Comparison, at: EqualLearning) -> str:
    """Return that the reference may not have been tuned, where its best learning rate is the lowest that was tried."""
    reference = comparison.reference
    assert reference is not None
    entries = [best for (method, _), best in at.best.items() if method == reference]
    for name, info in comparison.results.settings.items():
        if info.is_rate and any(at_edge(comparison, best.configuration, name) for best in entries):
            return f" A lower {info.label} of {comparison.label(reference)} was not tried: it might forget less."
    return ""


def _diverged(comparison: Comparison) -> str:
    """Return which configurations diverged; none of them is compared."""
    found = comparison.divergences
    return f"{'; '.join(found)}." if found else ""


def _many(comparison: Comparison) -> str:
    """Return the sentences about more than two methods: what can be told of them, on the metric of their ranking."""
    ranking = rank(comparison)
    if ranking is None or len(ranking.methods) < 2:
        return "No two methods learned enough to be compared." + _absent(comparison, ranking)
    where = f"At equal learning ({comparison.learning.label} {comparison.loss_text(ranking.target)})"
    metric, judged = ranking.metric, ranking.judged
    first, last = judged[0], judged[-1]
    seeds = [ranking.best(method).amount.seeds for method in judged]
    if max(seeds) < ENOUGH_SEEDS:
        text = (
            f"{where}, {metric.label} lies between {_named(comparison, ranking, first)} and "
            f"{_named(comparison, ranking, last)}. {span(seeds)} seed{'' if max(seeds) == 1 else 's'} each: too few to "
            f"tell which of these {len(seeds)} methods forgets less."
        )
    elif len(judged) < 2:
        text = f"{where}, {_named(comparison, ranking, first)} alone has seeds enough to be compared on {metric.label}."
    else:
        text = f"{where}, on {metric.label} {_against_reference(comparison, ranking)}. {_least(comparison, ranking)}"
    text += _unjudged(comparison, ranking)
    early = _early(comparison, [(method, ranking.best(method)) for method in ranking.methods])
    return text + early + _untried(comparison, ranking.at) + _absent(comparison, ranking)


def _named(comparison: Comparison, ranking: Ranking, method: str) -> str:
    return f"{comparison.label(method)} ({_change(ranking.best(method).amount, ranking.metric)})"


def _against_reference(comparison: Comparison, ranking: Ranking) -> str:
    """Return which methods can be told from the reference, or from the first if that is not compared."""
    reference = comparison.reference if comparison.reference in ranking.judged else ranking.judged[0]
    assert reference is not None
    groups: dict[str, list[str]] = {}
    for method in ranking.judged:
        if method != reference:
            match = _Match(comparison, (method, reference), ranking.at)
            words = match.phrase(ranking.metric)[1] if ranking.told_apart(method, reference) else "cannot be told from"
            groups.setdefault(words, []).append(comparison.label(method))
    clauses: list[str] = []
    for words, labels in groups.items():
        whom = "it" if clauses else _named(comparison, ranking, reference)
        clauses.append(f"{joined(labels)} {words} {whom}")
    return "; ".join(clauses)


def _least(comparison: Comparison, ranking: Ranking) -> str:
    """Return which method forgot least, and which ones may be as good."""
    first, *others = ranking.tied
    best = f"Least: {_named(comparison, ranking, first)}"
    return (
        f"{best}, not beyond chance ahead of {joined([comparison.label(m) for m in others])}." if others else f"{best}."
    )


def _unjudged(comparison: Comparison, ranking: Ranking) -> str:
    """Return the methods that nothing is said of, because they have fewer seeds than those that are judged."""
    few = [method for method in ranking.methods if method not in ranking.judged]
    labels = joined([comparison.label(method) for method in few])
    return f" Too few seeds to tell: {labels}." if few else ""


def _absent(comparison: Comparison, ranking: Ranking | None) -> str:
    absent = ranking.absent if ranking else {}
    clauses = [f"{comparison.label(method)} {why}" for method, why in absent.items() if not why.startswith("diverged")]
    return f" Not compared: {'; '.join(clauses)}." if clauses else ""


def _alone(comparison: Comparison, method: str) -> str:
    """Return the sentence about results of a single method."""
    ours, label = comparison.label(method), comparison.learning.label
    only = "the only method" if len(comparison.planned_methods) == 1 else "the only method that was measured so far"
    target = common_loss(comparison, [method])
    if target is None:
        return f"{ours} is {only}, and {_never(comparison, [method])}."
    best = equal_learning(comparison, target, comparison.probe_headlines).best
    said = {"worse": "forgot", "better": "gained", "unchanged": "no change beyond noise on"}
    groups: dict[str, list[str]] = {}
    for (_, metric), entry in best.items():
        amount = entry.amount
        text = f" ({measured(Pooled(abs(amount.mean), amount.std, amount.seeds), metric)})"
        groups.setdefault(said[amount.direction], []).append(metric.label + text)
    changes = (
        "; ".join(f"{words} {joined(clauses)}" for words, clauses in groups.items()) or "nothing else was measured"
    )
    return (
        f"{ours} is {only}, so nothing is compared. At its {comparison.lowest} {label}, "
        f"{comparison.loss_text(target)}: {changes} ({plural(len(comparison.configurations), 'configuration')})."
    )

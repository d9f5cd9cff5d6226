"""The verdict: one honest sentence about what was measured."""

from mofo.report.comparison import (
    DISTANCE,
    Measure,
    Results,
    headlines,
    is_complete,
    measured_runs,
    methods,
    settings,
)
from mofo.report.formatting import listed, loss_text, measure_name, method_name, pooled
from mofo.report.fronts import (
    EqualLearning,
    common_loss,
    default_targets,
    equal_learning,
    told_apart,
)

Pair = tuple[str, str]


def verdict(results: Results) -> str:
    """Say in a sentence how two methods compare at equal learning, whoever wins, and how sure that is.

    MoFO is compared with AdamW where both were run, otherwise the first two methods. They are told apart on a
    measure when the ranges mean ± standard deviation over seeds do not overlap.
    """
    sentence = _sentence(results)
    return sentence if is_complete(results) else f"Unfinished; so far: {sentence}"


def main_pair(results: Results) -> Pair | None:
    """The method that the verdict is about and the one it is held against; None if there is but one."""
    names = methods(results)
    if len(names) < 2:
        return None
    reference = "adamw" if "adamw" in names else names[0]
    others = [name for name in names if name != reference]
    return ("mofo" if "mofo" in others else others[0]), reference


def pair_loss(results: Results) -> float | None:
    """The held-out loss of the verdict: the lowest that both of its methods reached; None if there is none."""
    pair = main_pair(results)
    return common_loss(results, pair) if pair else None


def _sentence(results: Results) -> str:
    if not measured_runs(results):
        return "no run has been measured yet."
    pair = main_pair(results)
    if pair is None:
        return _alone(results)
    ours, theirs = (method_name(method) for method in pair)
    target = pair_loss(results)
    if target is None:
        names = [method_name(method) for method in pair if common_loss(results, [method]) is None]
        return (
            f"{ours} and {theirs} cannot be compared at equal learning: {listed(names)} never got below the base's "
            "held-out loss."
        )
    at = equal_learning(results, target, [*headlines(results), DISTANCE])
    probes = [m for m in headlines(results) if all((method, m) in at.best for method in pair)]
    if not probes:
        return f"{ours} and {theirs} cannot be compared: no probe measured both at held-out loss {loss_text(target)}."
    loss = loss_text(target)
    early = [method for method in pair if any(at.best[method, m].from_base for m in probes)]
    if early:
        early_name, late_name = (ours, theirs) if early[0] == pair[0] else (theirs, ours)
        return (
            f"{ours} and {theirs} cannot be compared at equal learning: the lowest held-out loss of {late_name} was "
            f"{loss}, and {early_name} was past it before its first checkpoint."
        )
    outcome = _comparison(pair, at, probes) + _elsewhere(results, pair, at, probes)
    return f"At equal learning (held-out loss {loss}) {outcome} ({_basis(pair, at, probes)})."


def _comparison(pair: Pair, at: EqualLearning, probes: list[Measure]) -> str:
    """Two methods at one held-out loss, the probes grouped by their outcome."""
    ours, theirs = (method_name(method) for method in pair)
    phrases = {
        "less": (f"{ours} forgot less than {theirs} on", "less on"),
        "more": (f"{ours} forgot more than {theirs} on", "more on"),
        "same": (f"{ours} and {theirs} cannot be told apart on", "and indistinguishable within spread on"),
    }
    parts: list[str] = []
    for outcome, (first, later) in phrases.items():
        clauses = [_clause(m, pair, at) for m in probes if _outcome(m, pair, at) == outcome]
        if outcome == "same" and parts:  # the table has the amounts
            clauses = [measure_name(m) for m in probes if _outcome(m, pair, at) == outcome]
        if clauses:
            parts.append(f"{later if parts else first} {listed(clauses)}")
    if all((method, DISTANCE) in at.best for method in pair):
        parts.append(f"at a distance from the base of {_against(DISTANCE, pair, at)}")
    return ", ".join(parts)


def _outcome(measure: Measure, pair: Pair, at: EqualLearning) -> str:
    """Whether the first method forgot "less" or "more" than the second, or the "same" within the spread."""
    a, b = (at.best[method, measure].amount for method in pair)
    if told_apart(a, b) is False or a.mean == b.mean:
        return "same"
    return "less" if a.mean < b.mean else "more"


def _clause(measure: Measure, pair: Pair, at: EqualLearning) -> str:
    """A probe with both amounts; for divergences, which are never negative, also the difference in percent."""
    a, b = (at.best[method, measure].amount for method in pair)
    percent = ""
    if measure.metric == "kl" and b.mean > 0 and _outcome(measure, pair, at) != "same":
        percent = f", {abs(100 * (a.mean / b.mean - 1)):.0f} % {'less' if a.mean < b.mean else 'more'}"
    return f"{measure_name(measure)} ({_against(measure, pair, at)}{percent})"


def _against(measure: Measure, pair: Pair, at: EqualLearning) -> str:
    a, b = (pooled(at.best[method, measure].amount, measure) for method in pair)
    return f"{a} against {b}"


def _elsewhere(results: Results, pair: Pair, at: EqualLearning, probes: list[Measure]) -> str:
    """The probes whose winner is the other method at a higher held-out loss: the fronts cross.

    Losses that a setting passed before its first checkpoint say nothing: it is left out there, and might be the best.
    """
    swapped: dict[Measure, float] = {}
    for target in default_targets(results):
        other = equal_learning(results, target, probes)
        for measure in probes:
            entries = [other.best.get((method, measure)) for method in pair]
            measured = all(entry is not None and not entry.early for entry in entries)
            if target > at.target and measured and measure not in swapped:
                outcomes = {_outcome(measure, pair, at), _outcome(measure, pair, other)}
                if outcomes == {"less", "more"}:
                    swapped[measure] = target
    crossings = [f"{measure_name(measure)} at {loss_text(target)}" for measure, target in swapped.items()]
    return f", but the other way round on {listed(crossings)}" if crossings else ""


def _basis(pair: Pair, at: EqualLearning, probes: list[Measure]) -> str:
    """On how many settings and seeds the comparison rests."""
    entries = [[at.best[method, measure] for measure in probes] for method in pair]
    reached = " and ".join(f"{max(e.reached for e in mine)} of {mine[0].tried}" for mine in entries)
    seeds = sorted({entry.amount.seeds for mine in entries for entry in mine})
    if seeds == [1]:
        spread = "one seed: no spread, so a small difference may be chance"
    elif 1 in seeds:
        spread = "some settings with one seed: no spread"
    else:
        spread = f"{' to '.join(map(str, dict.fromkeys([seeds[0], seeds[-1]])))} seeds"
    return f"each by the best of the settings that got there, {reached}; {spread}"


def _alone(results: Results) -> str:
    """The sentence about results of a single method."""
    (method,) = methods(results)
    target = common_loss(results)
    if target is None:
        return f"{method_name(method)} alone was run, and it never got below the base's held-out loss."
    best = equal_learning(results, target, headlines(results)).best
    amounts = [
        f"{measure_name(m)} {pooled(best[method, m].amount, m)}" for m in headlines(results) if (method, m) in best
    ]
    count = len(settings(results))
    return (
        f"{method_name(method)} alone was run, so nothing is compared: at its lowest held-out loss {loss_text(target)} "
        f"it had forgotten {listed(amounts) if amounts else 'nothing that was measured'} "
        f"({count} setting{'s' if count > 1 else ''})."
    )

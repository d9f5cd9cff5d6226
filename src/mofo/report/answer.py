"""The answer: what came out, what to take, and what would make it surer, in a paragraph each."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mofo.report.comparison import Comparison, Configuration
from mofo.report.conclusion import verdict
from mofo.report.formatting import joined, measured, span
from mofo.report.fronts import Best, common_loss
from mofo.report.ranking import Ranking, at_edge, compared_methods, rank
from mofo.report.sequences import best_at_end, sequence_verdict
from mofo.report.spread import ENOUGH_SEEDS
from mofo.results import Metric, Run

_MOST_NAMED = 4  # runs in a sentence
_MANY = 2  # configurations per method from which on tuning is cheaper than repeating them all


@dataclass(frozen=True)
class Advice:
    """A paragraph of the answer, and commands that it ends in, ready to paste."""

    text: str
    commands: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Answer:
    """The three paragraphs that page and terminal begin with."""

    result: str
    take: Advice
    surer: Advice


def make_answer(comparison: Comparison, folder: str | Path) -> Answer:
    """Return the answer of a comparison.

    Args:
        comparison: The comparison.
        folder: The output folder, as commands and paths are to name it.
    """
    ranking = rank(comparison)
    result = " ".join(filter(None, [sequence_verdict(comparison), verdict(comparison)]))
    return Answer(result, _take(comparison, ranking, Path(folder)), _surer(comparison, ranking, Path(folder)))


def _take(comparison: Comparison, ranking: Ranking | None, folder: Path) -> Advice:
    """Return which method and settings to take: the one that is ahead beyond chance, or else the plainest."""
    if not comparison.runs:
        return Advice("Nothing yet.")
    if (after_all_tasks := best_at_end(comparison)) is not None:
        chosen, why = after_all_tasks
        loss = measured(comparison.at_end(chosen, comparison.learning), comparison.learning)
        end = f" At the end: {comparison.learning.label} {loss}."
        return Advice(f"{comparison.full_name(chosen)}{why}.{end}{_kept(_run(chosen), folder)}")
    if ranking is None:
        learned = common_loss(comparison, compared_methods(comparison)) is not None
        reason = "no probe measured the methods" if learned else "no method learned the task without diverging"
        return Advice(f"Nothing yet: {reason}.")
    method, why = _choice(comparison, ranking)
    preferred = ranking.best(method).configuration
    chosen = undominated(comparison, preferred, ranking.metric)
    if chosen is not preferred:
        why = _dominance(comparison, preferred, ranking.metric)
    run = _run(chosen)
    facts = [
        f"{metric.label} {measured(amount, metric)}"
        for metric in [comparison.learning, ranking.metric]
        if (amount := comparison.at_end(chosen, metric)) is not None
    ]
    end = f" At the end of training: {joined(facts)} ({_meaning(comparison, ranking)})." if facts else ""
    cost, kept = _cost(comparison, ranking, chosen), _kept(run, folder)
    return Advice(f"{comparison.full_name(chosen)}{why}.{end}{cost}{kept}", _full_run(comparison, run, folder))


def _cost(comparison: Comparison, ranking: Ranking, chosen: Configuration) -> str:
    """Return how much longer or shorter the training of a configuration took than that of the reference's best."""
    reference = comparison.reference
    if reference not in ranking.methods or reference == chosen.method:
        return ""
    assert reference is not None
    ours, theirs = (comparison.training_seconds(c) for c in (chosen, ranking.best(reference).configuration))
    if ours is None or theirs is None or not theirs.mean:
        return ""
    return f" A training step took {ours.mean / theirs.mean:.2f} × the time of {comparison.label(reference)}'s."


def _kept(run: Run, folder: Path) -> str:
    """Return where the model of a run lies."""
    return f" Its model: {folder / run.model}." if run.model else " Its model was not kept."


def undominated(comparison: Comparison, preferred: Configuration, metric: Metric) -> Configuration:
    """Return a configuration, or one that is better at the end: it learned at least as much and forgot no more.

    What is compared at equal learning lies on the way of a run, but its end is what is taken. Of several that are
    better, one of the same method goes before the others, and then the one that forgot least. A few lucky seeds do not
    replace what was judged by enough of them.

    Args:
        comparison: The comparison.
        preferred: The configuration.
        metric: What is forgotten.
    """
    start = _end(comparison, preferred, metric)
    ends = {c: end for c in comparison.configurations if (end := _end(comparison, c, metric)) is not None}
    seeds = min(len(preferred.runs), ENOUGH_SEEDS)
    better = [c for c, end in ends.items() if start and len(c.runs) >= seeds and _dominates(end, start)]
    best = [c for c in better if not any(_dominates(ends[other], ends[c]) for other in better)]
    return min(best, key=lambda c: (c.method != preferred.method, ends[c][1]), default=preferred)


def _end(comparison: Comparison, configuration: Configuration, metric: Metric) -> tuple[float, float] | None:
    """Return held-out loss and what is forgotten at the end; None if one was not measured or a run diverged."""
    learned, forgotten = (comparison.at_end(configuration, m) for m in (comparison.learning, metric))
    return None if learned is None or forgotten is None else (comparison.as_loss(learned.mean), forgotten.mean)


def _dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] <= b[1] and a != b


def _dominance(comparison: Comparison, preferred: Configuration, metric: Metric) -> str:
    """Return why a configuration is taken that is better at the end than the one that was compared."""
    other = comparison.full_name(preferred)
    role = ", the reference," if preferred.method == comparison.reference else ""
    return f", which by the end learned at least as much as {other}{role} and forgot no more on {metric.label}"


def _meaning(comparison: Comparison, ranking: Ranking) -> str:
    base = f"the base has {comparison.loss_text(comparison.base_loss)}"
    return f"{base}; {ranking.metric.label} is the change from it, positive is worse"


def _choice(comparison: Comparison, ranking: Ranking) -> tuple[str, str]:
    """Return the method to take and why."""
    first, *tied = ranking.tied
    if len(ranking.judged) == 1:
        return first, ", the only method that can be judged" if len(comparison.methods) > 1 else ", the only method"
    if not tied:
        return first, f", which forgot least on {ranking.metric.label} beyond chance"
    seeds = [ranking.best(method).amount.seeds for method in (first, *tied)]
    few = f"with {span(seeds)} seed{'' if max(seeds) == 1 else 's'} each"
    reason = few if min(seeds) < ENOUGH_SEEDS else "beyond chance"
    if comparison.reference in ranking.tied:
        return comparison.reference, f", the reference, for now: no method is shown to be better {reason}"
    cheapest = min(ranking.tied, key=lambda method: _seconds(comparison, ranking.best(method)))
    return cheapest, f", for now: {joined([comparison.label(m) for m in ranking.tied])} cannot be told apart {reason}"


def _seconds(comparison: Comparison, best: Best) -> float:
    """Return what a step of a configuration's optimizer takes; infinite if it was not recorded."""
    seconds = comparison.optimizer_seconds(best.configuration)
    return float("inf") if seconds is None else seconds.mean


def _run(configuration: Configuration) -> Run:
    """Return the run of a configuration whose model can be taken: one that was kept, or else the first."""
    return next((run for run in configuration.runs if run.model), configuration.runs[0])


def _full_run(comparison: Comparison, run: Run, folder: Path) -> list[tuple[str, str]]:
    """Return the command that trains on all rows once, where the comparison had a number of steps."""
    if run.command is None or comparison.results.recipe.get("steps") is None:
        return []
    command = f"{_compare(folder)} {run.command} --epochs 1 --output {_quoted(folder, '-full')}"
    return [("Train on all rows", command)]


def _surer(comparison: Comparison, ranking: Ranking | None, folder: Path) -> Advice:
    """Return what is missing for a firm conclusion, and the command that adds it."""
    if comparison.missing:
        names = comparison.results.missing
        named = [*names[:_MOST_NAMED], *([f"{len(names) - _MOST_NAMED} more"] if len(names) > _MOST_NAMED else [])]
        text = f"First the rest of the plan{f': {joined(named)}' if named else ''}."
        return Advice(text, [("Resume", f"{_compare(folder)} --output {_quoted(folder)}")])
    if ranking is None and not comparison.probe_headlines and comparison.runs:
        return Advice("A probe of what may be forgotten: choose another --output, and give --probes.")
    if ranking is None:
        rates = _lower_rates(comparison, comparison.configurations)
        return _advice("Lower learning rates, at which runs do not diverge", rates, folder)
    best = [ranking.best(method) for method in ranking.judged]
    rates = _lower_rates(comparison, [entry.configuration for entry in best])
    few = min(entry.amount.seeds for entry in best) < ENOUGH_SEEDS
    wishes = []
    if few:
        wishes.append("three seeds, so that differences can be told from chance")
    if rates:
        wishes.append("lower learning rates, because the best one lies at the edge of those that were tried")
    advice = _advice("; ".join(wishes), [*rates, *(_seeds(comparison) if few else [])], folder)
    if any(entry.passed for entry in best) or comparison.results.recipe.get("points") == 1:
        points = 2 * int(comparison.results.recipe.get("points", 1))
        command = f"{_compare(folder)} --points {points} --output {_quoted(folder, f'-{points}-points')}"
        return Advice(advice.text + " More points along each run.", [*advice.commands, ("More points", command)])
    return advice


def _advice(wish: str, flags: Sequence[str], folder: Path) -> Advice:
    if not flags:
        return Advice("Other data, another model and longer training: this comparison has what it needs.")
    command = f"{_compare(folder)} {' '.join(flags)} --output {_quoted(folder)}"
    return Advice(f"{wish[:1].upper()}{wish[1:]}. Runs that are done are not repeated.", [("Add these runs", command)])


def _lower_rates(comparison: Comparison, configurations: Sequence[Configuration]) -> list[str]:
    """Return flags for lower values of a learning rate that is best at its lowest value, by the optimizers' names."""
    flags = []
    for name, info in comparison.results.settings.items():
        at_edges = [c for c in configurations if info.is_rate and at_edge(comparison, c, name)]
        for optimizer in dict.fromkeys(_optimizer(comparison, c) for c in at_edges):
            values = [c.settings.get(name) for c in comparison.configurations if _optimizer(comparison, c) == optimizer]
            known = sorted({float(value) for value in values if value is not None})
            wanted = [known[0] / 4, known[0] / 2, *known]
            flags.append(f"--set {optimizer}.{name}={','.join(f'{value:g}' for value in wanted)}")
    return flags


def _optimizer(comparison: Comparison, configuration: Configuration) -> str:
    """Return the part of a configuration's method that has the learning rate."""
    return comparison.results.methods[configuration.method].parts[0]


def _seeds(comparison: Comparison) -> list[str]:
    """Return flags for three seeds: of the best of each method alone, where there are many configurations."""
    seeds = sorted({run.seed for run in comparison.runs})
    seeds += [seed for seed in range(ENOUGH_SEEDS) if seed not in seeds][: max(0, ENOUGH_SEEDS - len(seeds))]
    many = len(comparison.configurations) > _MANY * len(comparison.methods)
    tune = many and not comparison.results.recipe.get("tune")
    return [*(["--tune"] if tune else []), f"--seeds {','.join(map(str, seeds))}"]


def _compare(folder: Path) -> str:
    return f"mofo compare --recipe {_quoted(folder / 'recipe.yaml')}"


def _quoted(path: Path, suffix: str = "") -> str:
    return shlex.quote(f"{path}{suffix}")

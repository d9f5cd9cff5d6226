"""A comparison of several tasks as matrices: what each method knows of each task after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from mofo.report.comparison import Comparison, Configuration
from mofo.report.formatting import joined, number, pooled, span
from mofo.report.matrix import Matrix
from mofo.report.spread import ENOUGH_SEEDS, Pooled, distinguishable, pool_known
from mofo.results import Metric, Run


@dataclass(frozen=True)
class Quantity:
    """What the numbers of a matrix are: the held-out losses of the tasks, or the scores of their answers.

    Attributes:
        label: What readers call it.
        unit: Its unit.
        metrics: The metric of each task, in the order of the tasks.
    """

    label: str
    unit: str
    metrics: Sequence[Metric]

    @property
    def higher_is_better(self) -> bool:
        """Whether larger numbers are better."""
        return self.metrics[0].higher_is_better


@dataclass(frozen=True)
class Outcome:
    """What became of a method: its configuration with the lowest mean loss at the end, and the matrices of its runs."""

    method: str
    configuration: Configuration
    matrices: Sequence[Matrix]

    @property
    def mean(self) -> Matrix:
        """The mean over seeds, number by number."""
        first = self.matrices[0]
        rows = [
            [fmean(matrix.rows[i][j] for matrix in self.matrices) for j in range(first.tasks)]
            for i in range(first.tasks)
        ]
        return Matrix(rows, first.base, first.higher_is_better)

    def pooled(self, of: Callable[[Matrix], float | None]) -> Pooled | None:
        """Return a number of each seed's matrix as mean and spread over seeds; None if there is none."""
        return pool_known([of(matrix) for matrix in self.matrices])


def tasks_of(comparison: Comparison) -> list[str]:
    """Return the names of the tasks in their order."""
    return [task.name for task in comparison.results.tasks]


def quantities(comparison: Comparison) -> list[Quantity]:
    """Return what was measured of every task, losses first; nothing of a comparison of one task."""
    tasks = tasks_of(comparison)
    if len(tasks) < 2:
        return []
    found = []
    for label, higher in (("held-out loss", False), ("score", True)):
        metrics = [_metric(comparison, task, higher) for task in tasks]
        known = [metric for metric in metrics if metric is not None and metric.of(comparison.results.base) is not None]
        if len(known) == len(tasks):
            labels = {metric.label.removeprefix(f"{task} ") for task, metric in zip(tasks, known, strict=True)}
            found.append(Quantity(labels.pop() if higher and len(labels) == 1 else label, known[0].unit, known))
    return found


def _metric(comparison: Comparison, task: str, higher: bool) -> Metric | None:
    """Return a task's score or its loss."""
    own = (metric for metric in comparison.results.metrics if metric.kind == "learned" and metric.task == task)
    return next((metric for metric in own if metric.higher_is_better == higher), None)


def matrix_of(comparison: Comparison, run: Run, quantity: Quantity) -> Matrix | None:
    """Return the matrix of a run, in the unit in which it is shown; None if the run is not done, or diverged."""
    ends = {point.task: point for point in run.points}
    rows: list[list[float]] = []
    for task in tasks_of(comparison):
        found = [metric.of(ends[task]) if task in ends else None for metric in quantity.metrics]
        row = [value * m.scale for m, value in zip(quantity.metrics, found, strict=True) if value is not None]
        if len(row) < len(found):
            return None
        rows.append(row)
    base = [(metric.of(comparison.results.base) or 0.0) * metric.scale for metric in quantity.metrics]
    return Matrix(rows, base, quantity.higher_is_better)


def outcomes(comparison: Comparison, quantity: Quantity) -> list[Outcome]:
    """Return the outcome of each method that has gone through all tasks with every seed."""
    found = []
    for method in comparison.methods:
        done: list[tuple[float, Outcome]] = []
        for configuration in comparison.of_method(method):
            matrices = [matrix_of(comparison, run, quantity) for run in configuration.runs]
            known = [matrix for matrix in matrices if matrix is not None]
            loss = comparison.at_end(configuration, comparison.learning)
            if loss is not None and len(known) == len(matrices):
                done.append((loss.mean, Outcome(method, configuration, known)))
        if done:
            found.append(min(done, key=lambda entry: entry[0])[1])
    return found


def reference_rows(comparison: Comparison, quantity: Quantity, order: str) -> dict[str, list[list[float]]]:
    """Return what models know of each task that learned all jointly, or each alone: a row a run, by method.

    Of several settings of a method the runs with the best mean are taken.
    """
    rows: dict[str, dict[tuple[tuple[str, object], ...], list[list[float]]]] = {}
    for run in comparison.results.runs:
        if comparison.results.methods[run.method].order != order or not run.points:
            continue
        if order == "joint":
            values = [metric.of(run.points[-1]) for metric in quantity.metrics]
            row = [v * m.scale for m, v in zip(quantity.metrics, values, strict=True) if v is not None]
        else:
            matrix = matrix_of(comparison, run, quantity)
            row = [matrix.rows[j][j] for j in range(matrix.tasks)] if matrix else []
        if len(row) == len(quantity.metrics):
            rows.setdefault(run.method, {}).setdefault(tuple(sorted(run.settings.items())), []).append(row)
    best = max if quantity.higher_is_better else min
    return {
        method: best(by_settings.values(), key=lambda found: fmean(fmean(row) for row in found))
        for method, by_settings in rows.items()
    }


def sequence_verdict(comparison: Comparison) -> str:
    """Say how methods end after all tasks, what was lost when, and how sure that is; empty for one task."""
    measured = quantities(comparison)
    if not measured:
        return ""
    losses = measured[0]
    found = outcomes(comparison, losses)
    if not found:
        return "No method has gone through all tasks yet."
    ranked = sorted(found, key=lambda outcome: outcome.mean.overall)
    best, worst = ranked[0], ranked[-1]
    name = f"mean {losses.label}"
    count = len(tasks_of(comparison))
    text = f"After all {count} tasks, {name} is {_amount(best, lambda m: m.overall)} with {_label(comparison, best)}"
    if worst is not best:
        text += f" and up to {_amount(worst, lambda m: m.overall)} with {_label(comparison, worst)}"
    return f"{text}. {_certainty(comparison, ranked)} {lost_sentence(comparison, worst, losses)}"


def best_at_end(comparison: Comparison) -> tuple[Configuration, str] | None:
    """Return the configuration to take after several tasks, and why; None for one task, or if no method is done.

    It is the one with the lowest mean loss at the end, or the reference where that is not ahead of it beyond chance.
    """
    measured = quantities(comparison)
    found = outcomes(comparison, measured[0]) if measured else []
    if not found:
        return None
    best = min(found, key=lambda outcome: outcome.mean.overall)
    reference = next((outcome for outcome in found if outcome.method == comparison.reference), best)
    if len(found) == 1:
        return best.configuration, ", the only method that has gone through all tasks"
    if best is reference or _against(best, reference) == "lower beyond chance":
        ahead = ", the reference" if best is reference else ""
        return best.configuration, f"{ahead}, which had the lowest mean {measured[0].label} after the last task"
    return reference.configuration, ", the reference, for now: no method is shown to end with a lower loss"


def _certainty(comparison: Comparison, ranked: Sequence[Outcome]) -> str:
    """Return which methods end better or worse than the reference beyond chance."""
    seeds = [len(outcome.matrices) for outcome in ranked]
    if len(ranked) == 1:
        return ""
    if min(seeds) < ENOUGH_SEEDS:
        return f"{span(seeds)} seed{'' if max(seeds) == 1 else 's'} each: too few to tell such differences from chance."
    reference = next((outcome for outcome in ranked if outcome.method == comparison.reference), ranked[-1])
    groups: dict[str, list[str]] = {}
    for outcome in ranked:
        if outcome is not reference:
            groups.setdefault(_against(outcome, reference), []).append(_label(comparison, outcome))
    clauses = [f"{joined(labels)} {words}" for words, labels in groups.items()]
    return f"Against {_label(comparison, reference)}: {'; '.join(clauses)}."


def _against(outcome: Outcome, reference: Outcome) -> str:
    ours, theirs = (one.pooled(lambda matrix: matrix.overall) for one in (outcome, reference))
    if ours is None or theirs is None or not distinguishable(ours, theirs):
        return "cannot be told from it"
    return "lower beyond chance" if ours.mean < theirs.mean else "higher beyond chance"


def lost_sentence(comparison: Comparison, outcome: Outcome, quantity: Quantity) -> str:
    """Return what a method lost most, while what was learned, and what is left of the loss at the end."""
    tasks, label = tasks_of(comparison), _label(comparison, outcome)
    drop = outcome.mean.largest_drop()
    if drop is None:
        return f"{label} lost nothing of any task while it learned the others."
    task, during, amount = drop
    moved = "fell" if quantity.higher_is_better else "rose"
    total = -outcome.mean.gain(outcome.mean.rows[-1][task], outcome.mean.rows[task][task])
    end = f"; at the end it was {number(abs(total))} {'worse' if total > 0 else 'better'} than when it was learned"
    return (
        f"{label} lost most of {tasks[task]}, while {tasks[during]} was learned: its {quantity.label} {moved} by "
        f"{number(amount)}{end if during < len(tasks) - 1 else ''}."
    )


def _label(comparison: Comparison, outcome: Outcome) -> str:
    return comparison.describe(outcome.configuration)


def _amount(outcome: Outcome, of: Callable[[Matrix], float | None]) -> str:
    return pooled(outcome.pooled(of), digits=4)

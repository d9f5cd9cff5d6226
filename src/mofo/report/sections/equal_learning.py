"""Methods at equal learning: the table."""

from __future__ import annotations

from mofo.report.comparison import Comparison
from mofo.report.formatting import measured, plural
from mofo.report.fronts import Best, EqualLearning, common_loss, default_targets, equal_learning
from mofo.report.section import Cell, Group, Row, Section, Table
from mofo.report.spread import distinguishable
from mofo.results import Metric


def section(comparison: Comparison) -> Section | None:
    """Return, for a few held-out losses, a row per method with the best of its configurations."""
    metrics = [*comparison.forgotten, *comparison.distance_headlines]
    targets = default_targets(comparison)
    pair_loss = common_loss(comparison, comparison.pair) if comparison.pair else None
    if pair_loss is not None and pair_loss not in targets:
        targets = [pair_loss, *targets]
    if not metrics or not targets:
        return None
    label = comparison.learning.label
    groups = []
    for target in targets:
        at = equal_learning(comparison, target, metrics)
        rows = [_row(comparison, method, metrics, at) for method in comparison.methods]
        groups.append(Group(rows, title=f"{label} {comparison.loss_text(target)}"))
    return Section(
        "At equal learning",
        table=Table("method", [Cell(metric.label, metric.unit) for metric in metrics], groups),
        caption=f"Each number is from the configuration of the method that did best in its column at this {label}; how "
        "many got there stands under the method. Bold: below every other method by more than the spread over seeds. "
        "Configurations that had passed a loss before their first checkpoint are left out there; where all of them "
        "had, the number is read off a straight line from the base and has an asterisk.",
    )


def _row(comparison: Comparison, method: str, metrics: list[Metric], at: EqualLearning) -> Row:
    cells = [_cell(comparison, method, metric, at) for metric in metrics]
    entries = [at.best[method, metric] for metric in metrics if (method, metric) in at.best]
    return Row(Cell(comparison.label(method), _reached(entries)), comparison.styles[method], cells)


def _reached(entries: list[Best]) -> str:
    """Return how many configurations reached a loss, and how many were left out because they passed it early."""
    if not entries:
        return "not reached"
    most = max(entries, key=lambda entry: entry.reached)
    left_out = f", {most.early} left out" if most.early and not most.from_base else ""
    return f"{most.reached} of {plural(most.tried, 'configuration')}{left_out}"


def _cell(comparison: Comparison, method: str, metric: Metric, at: EqualLearning) -> Cell:
    entry = at.best.get((method, metric))
    if entry is None:
        return Cell(measured(None, metric))
    others = [
        at.best[other, metric].amount for other in comparison.methods if other != method and (other, metric) in at.best
    ]
    ahead = all(entry.amount.mean < other.mean and distinguishable(entry.amount, other) for other in others)
    seeds = [plural(entry.amount.seeds, "seed").replace(" ", "\u00a0")] if entry.amount.seeds > 1 else []
    note = " · ".join(filter(None, [comparison.settings_text(entry.configuration), *seeds]))
    return Cell(measured(entry.amount, metric) + ("*" if entry.from_base else ""), note, bold=bool(others) and ahead)

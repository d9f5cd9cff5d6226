"""Methods at equal learning: the key figure, and the table in its order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mofo.report.comparison import Comparison
from mofo.report.figures import INK, NEUTRAL, PAGE, Panel
from mofo.report.formatting import measured, plural, with_unit
from mofo.report.fronts import Best, EqualLearning, default_targets, equal_learning
from mofo.report.ranking import Ranking, compared_loss, rank
from mofo.report.section import Cell, Group, Plot, Row, Section, Table
from mofo.report.spread import ENOUGH_SEEDS
from mofo.results import Metric

_WIDTH = 26  # letters of a line of a method's name beside a panel
_LINE = 0.17  # inches of it; between two rows one is empty
_MANY = 4  # methods from which on one loss fills the table


def section(comparison: Comparison) -> Section | None:
    """Return a panel for each probe, and for a few held-out losses a row per method with its best configuration."""
    metrics = [*comparison.forgotten, *comparison.distance_headlines]
    ranking = rank(comparison)
    targets = _targets(comparison, ranking)
    if not metrics or not targets:
        return None
    label = comparison.learning.label
    methods = [*ranking.methods, *ranking.absent] if ranking else comparison.methods
    groups = []
    for target in targets:
        at = equal_learning(comparison, target, metrics)
        rows = [_row(comparison, method, metrics, at, ranking) for method in methods]
        groups.append(Group(rows, title=f"{label} {comparison.loss_text(target)}"))
    return Section(
        f"At equal learning ({label} {comparison.loss_text(targets[0])})" if len(targets) == 1 else "At equal learning",
        plot=Plot("equal_learning", _panels(comparison, ranking)) if ranking else None,
        table=Table("method", [_head(comparison, metric) for metric in metrics], groups),
        caption=_order(comparison, ranking)
        + f"Each number is the change from the base, positive is worse, of the configuration of the method that did "
        f"best in its column at this {label}, of those with {ENOUGH_SEEDS} seeds or more where it has some; how many "
        "configurations got there stands under the method. ± is the standard deviation over seeds. Bold: below every "
        f"other method beyond chance ({ENOUGH_SEEDS} seeds or more). "
        "An asterisk: the configuration was past this loss at its first checkpoint, and the number is of this "
        "checkpoint, which had learned more.",
    )


def _targets(comparison: Comparison, ranking: Ranking | None) -> list[float]:
    """Return the losses of the table: that of the ranking, and with few methods some above it."""
    targets = default_targets(comparison)
    if ranking is not None and (ranking.absent or len(comparison.methods) > _MANY):
        return [ranking.target]
    pair_loss = compared_loss(comparison, comparison.pair) if comparison.pair else None
    return targets if pair_loss is None or pair_loss in targets else [pair_loss, *targets]


def _order(comparison: Comparison, ranking: Ranking | None) -> str:
    """Return what the rows are ordered by, and which neighbours in this order differ by chance alone."""
    if ranking is None or len(ranking.methods) < 2:
        return ""
    told = [ranking.told_apart(a, b) for a in ranking.methods for b in ranking.methods if a != b]
    order = f"Ordered by {ranking.metric.label}. "
    if not any(told):
        return f"{order}No two methods can be told apart: the order may be chance. "
    return order if all(told) else f"{order}Where error bars overlap, the order may be chance. "


def _head(comparison: Comparison, metric: Metric) -> Cell:
    base = comparison.base_text(metric) if metric.kind == "forgotten" else ""
    return Cell(metric.label, "; ".join(filter(None, [metric.unit, f"base {base}" if base else ""])))


def _panels(comparison: Comparison, ranking: Ranking) -> list[Panel]:
    """Return a panel for each probe's headline, that of the ranking first."""
    metrics = [ranking.metric, *(metric for metric in comparison.probe_headlines if metric != ranking.metric)]
    edges = _edges(comparison, ranking, metrics)
    height = 1.25 + _LINE * edges[-1]
    return [
        Panel(metric.label, draw, height)
        for metric in metrics
        if (draw := _draw(comparison, ranking, metric, edges)) is not None
    ]


def _rows(ranking: Ranking) -> list[str]:
    """Return the methods in the order of the figure's rows."""
    return [*ranking.methods, *ranking.absent]


def _edges(comparison: Comparison, ranking: Ranking, metrics: Sequence[Metric]) -> list[int]:
    """Return where the rows begin and end, in lines of text: each holds its longest label in any panel."""

    def lines(method: str) -> int:
        labels = [_name(comparison, ranking, method, metric) for metric in metrics]
        return max(label.count("\n") + 1 for label in labels)

    return list(accumulate((lines(method) + 1 for method in _rows(ranking)), initial=0))


def _draw(
    comparison: Comparison, ranking: Ranking, metric: Metric, edges: Sequence[int]
) -> Callable[[Axes], None] | None:
    """Return a function that draws each method's best as a dot with an error bar, beside the base.

    Args:
        comparison: The comparison.
        ranking: The order of its methods.
        metric: What the panel shows.
        edges: Where the rows begin and end, in lines of text from above.
    """
    places = {method: (low + high) / 2 for method, (low, high) in zip(_rows(ranking), pairwise(edges), strict=True)}
    found = {
        method: ranking.at.best[method, metric] for method in ranking.methods if (method, metric) in ranking.at.best
    }
    if not found:
        return None

    def draw(axes: Axes) -> None:
        for method, best in found.items():
            amount, style = best.amount, comparison.styles[method]
            bar = axes.errorbar(
                amount.mean, places[method], xerr=amount.bar or None, fmt=style.marker, color=style.colour
            )
            bar.lines[0].set(markersize=8, markeredgecolor=PAGE)
        axes.axvline(0, color=INK, lw=1.2, ls=(0, (4, 3)), zorder=1)
        axes.margins(x=0.12)
        _name_base(axes, f"base {comparison.base_text(metric)}")
        names = [_name(comparison, ranking, method, metric) for method in places]
        axes.set_yticks([*places.values()], names, fontsize=8.5)
        axes.set_ylim(edges[-1], -1)  # a line above the first row for the base
        axes.xaxis.set_major_locator(MaxNLocator(5))  # more labels would touch each other
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"← better      {with_unit('forgotten', metric.unit)}")

    return draw


def _name_base(axes: Axes, text: str) -> None:
    """Write what the base has beside its line, where the panel begins and where there is room."""
    low, high = axes.get_xlim()
    to_right = (low + high) / 2 >= 0
    axes.annotate(
        text,
        (0, 1),
        xycoords=axes.get_xaxis_transform(),
        xytext=(4 if to_right else -4, -5),
        ha="left" if to_right else "right",
        textcoords="offset points",
        fontsize=8,
        color=NEUTRAL,
        va="center",
    )


def _name(comparison: Comparison, ranking: Ranking, method: str, metric: Metric) -> str:
    """Return a method's name, and below it the settings of its best configuration, or why there is none."""
    best = ranking.at.best.get((method, metric)) if method in ranking.methods else None
    below = comparison.settings_text(best.configuration) if best else ranking.absent.get(method, "not measured")
    star = "*" if best and best.early else ""
    return "\n".join(line for text in (comparison.label(method) + star, below) for line in wrap(text, _WIDTH))


def _row(
    comparison: Comparison, method: str, metrics: Sequence[Metric], at: EqualLearning, ranking: Ranking | None
) -> Row:
    cells = [_cell(comparison, method, metric, at) for metric in metrics]
    entries = [at.best[method, metric] for metric in metrics if (method, metric) in at.best]
    absent = ranking.absent.get(method, "not reached") if ranking else "not reached"
    return Row(Cell(comparison.label(method), _reached(entries) or absent), comparison.styles[method], cells)


def _reached(entries: list[Best]) -> str:
    """Return how many configurations reached a loss."""
    if not entries:
        return ""
    most = max(entries, key=lambda entry: entry.reached)
    return f"{most.reached} of {plural(most.tried, 'configuration')}"


def _cell(comparison: Comparison, method: str, metric: Metric, at: EqualLearning) -> Cell:
    entry = at.best.get((method, metric))
    if entry is None:
        return Cell(measured(None, metric))
    others = [at.best[other, metric] for other in comparison.methods if other != method and (other, metric) in at.best]
    ahead = all(entry.amount.mean < other.amount.mean and entry.told_apart(other) for other in others)
    seeds = [plural(entry.amount.seeds, "seed").replace(" ", "\u00a0")] if entry.amount.seeds > 1 else []
    noise = ["within\u00a0noise"] if metric.kind == "forgotten" and entry.amount.direction == "unchanged" else []
    note = " · ".join(filter(None, [comparison.settings_text(entry.configuration), *seeds, *noise]))
    return Cell(measured(entry.amount, metric) + ("*" if entry.early else ""), note, bold=bool(others) and ahead)

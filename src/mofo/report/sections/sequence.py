"""One task after the other: overall performance against backward transfer, and the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from mofo.report.comparison import Comparison
from mofo.report.figures import INK, PAGE, Panel, legend_below, legend_height, mark_better, method_legend
from mofo.report.formatting import NOTHING, plural, pooled, with_unit
from mofo.report.matrix import Matrix
from mofo.report.section import Cell, Group, Plot, Row, Section, Table
from mofo.report.sequences import Outcome, Quantity, lost_sentence, outcomes, quantities, reference_rows
from mofo.report.spread import Pooled, distinguishable, pool
from mofo.report.styles import BASE

_COLUMNS: dict[str, tuple[str, Callable[[Matrix], float | None]]] = {
    "overall": ("mean after the last task", lambda matrix: matrix.overall),
    "backward transfer": ("gain since learned", lambda matrix: matrix.backward_transfer),
    "forward transfer": ("gain before learned", lambda matrix: matrix.forward_transfer),
    "forgetting": ("from the best to the end", lambda matrix: matrix.forgetting),
}
_REFERENCES = {"joint": "all tasks at once", "alone": "each task alone"}


def section(comparison: Comparison) -> Section | None:
    """Return a panel and rows of the table for losses and for scores; None for one task."""
    found = {quantity.label: (quantity, outcomes(comparison, quantity)) for quantity in quantities(comparison)}
    shown = [(quantity, done) for quantity, done in found.values() if done]
    if not shown:
        return None
    orders = [order for order in _REFERENCES if reference_rows(comparison, shown[0][0], order)]
    heads = [Cell(name, note) for name, (note, _) in _COLUMNS.items()]
    heads += [Cell("intransigence", f"short of {_REFERENCES[order]}") for order in orders]
    height = 3.3 + legend_height([*map(comparison.label, comparison.methods)])
    panels = [Panel(f"{q.label[:1].upper()}{q.label[1:]}", _draw(comparison, q, done), height) for q, done in shown]
    return Section(
        "One task after the other",
        plot=Plot("sequence", panels),
        table=Table(
            "method",
            heads,
            [Group(_rows(comparison, q, done, orders), title=with_unit(q.label, q.unit)) for q, done in shown],
        ),
        caption="Overall: the mean over tasks after the last. Backward transfer: by how much better the tasks before "
        "the last are at the end than when each had just been learned; negative is lost. Forward transfer: by how much "
        "better a task is than with the base just before it is learned (arXiv 1706.08840). Forgetting: from a task's "
        "best before the last one to the end, positive is lost. Intransigence: by how much a task, just learned, falls "
        "short of a model that learned all tasks at once, or it alone (arXiv 1801.10112). ± is the standard deviation "
        "over seeds. Bold: best beyond chance. Of each method the settings with the lowest mean loss at the end.",
        items=[lost_sentence(comparison, outcome, shown[0][0]) for outcome in shown[0][1]],
    )


def _rows(comparison: Comparison, quantity: Quantity, done: Sequence[Outcome], orders: Sequence[str]) -> list[Row]:
    """Return a row for each method, and for each model that learned all tasks at once, or each alone."""
    references = {order: reference_rows(comparison, quantity, order) for order in orders}
    rows = []
    for outcome in done:
        overall = outcome.pooled(lambda matrix: matrix.overall)
        others = [other.pooled(lambda matrix: matrix.overall) for other in done if other is not outcome]
        cells = [Cell(pooled(outcome.pooled(of))) for _, of in _COLUMNS.values()]
        cells[0] = Cell(cells[0].text, bold=bool(others) and all(_better(overall, o, quantity) for o in others))
        cells += [Cell(pooled(_intransigence(comparison, outcome, references[order]))) for order in orders]
        settings = comparison.settings_text(outcome.configuration)
        seeds = plural(len(outcome.matrices), "seed") if len(outcome.matrices) > 1 else ""
        head = Cell(comparison.label(outcome.method), " · ".join(filter(None, [settings, seeds])))
        rows.append(Row(head, comparison.styles[outcome.method], cells))
    for order, found in references.items():
        for method, values in found.items():
            overall = pool([sum(row) / len(row) for row in values])
            blank = [Cell(NOTHING)] * (len(_COLUMNS) + len(orders) - 1)
            note = "each right after it was learned" if order == "alone" else "upper bound"
            rows.append(Row(Cell(comparison.label(method), note), BASE, [Cell(pooled(overall)), *blank]))
    return rows


def _intransigence(comparison: Comparison, outcome: Outcome, references: dict[str, list[list[float]]]) -> Pooled | None:
    """Return how far a method falls short of a reference of its own parts, or else of the first one."""
    parts = {method: comparison.results.methods[method].parts for method in [outcome.method, *references]}
    own = [rows for method, rows in references.items() if parts[method] == parts[outcome.method]]
    rows = [*own, *references.values()][0]
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return outcome.pooled(lambda matrix: matrix.intransigence(mean))


def _better(a: Pooled | None, b: Pooled | None, quantity: Quantity) -> bool:
    """Return whether a number is better than another beyond chance."""
    if a is None or b is None or not distinguishable(a, b):
        return False
    return a.mean > b.mean if quantity.higher_is_better else a.mean < b.mean


def _draw(comparison: Comparison, quantity: Quantity, done: Sequence[Outcome]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for outcome in done:
            style = comparison.styles[outcome.method]
            overall = outcome.pooled(lambda matrix: matrix.overall)
            transfer = outcome.pooled(lambda matrix: matrix.backward_transfer)
            if overall is None or transfer is None:
                continue
            for matrix in outcome.matrices:
                place = matrix.backward_transfer or 0.0, matrix.overall
                axes.plot(*place, style.marker, color=style.colour, alpha=0.3, ms=4)
            bar = axes.errorbar(
                transfer.mean, overall.mean, overall.std, transfer.std, fmt=style.marker, color=style.colour, capsize=2
            )
            bar.lines[0].set(markersize=8, markeredgecolor=PAGE, zorder=5)
        axes.axvline(0, color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
        for method, rows in reference_rows(comparison, quantity, "joint").items():
            mean = sum(map(sum, rows)) / sum(map(len, rows))
            axes.axhline(mean, color=INK, lw=1, ls=(0, (1, 2)), zorder=1)
            axes.annotate(
                comparison.label(method), (0.02, mean), xycoords=axes.get_yaxis_transform(), fontsize=8, color=INK,
                va="bottom",
            )  # fmt: skip
        axes.margins(0.15)
        if not quantity.higher_is_better:
            axes.invert_yaxis()
        mark_better(axes, "better ↗", 0.985, 0.02)
        axes.set_xlabel("backward transfer  (lost ←)")
        axes.set_ylabel(f"overall {with_unit(quantity.label, quantity.unit)}")
        legend_below(axes, method_legend(comparison, [outcome.method for outcome in done]))

    return draw

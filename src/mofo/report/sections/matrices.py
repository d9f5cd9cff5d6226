"""Every task after every task: a heat map for each method."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mofo.report.comparison import Comparison
from mofo.report.figures import Panel
from mofo.report.formatting import number
from mofo.report.matrix import Matrix
from mofo.report.section import Plot, Section
from mofo.report.sequences import Quantity, outcomes, quantities, tasks_of

_COLOURS = colormaps["YlGnBu"]
_FRAME = "#D55E00"
_DARKEST = 0.85
"""Share of the colour map that is used, so that its ends stay apart from text and page."""


def section(comparison: Comparison) -> Section | None:
    """Return a panel for each method, of losses and of scores; None for one task."""
    tasks = tasks_of(comparison)
    height = 1.5 + 0.36 * (len(tasks) + 1)
    panels = []
    for quantity in quantities(comparison):
        found = outcomes(comparison, quantity)
        ranges = _ranges([outcome.mean for outcome in found])
        for outcome in found:
            title = f"{comparison.label(outcome.method)}: {quantity.label}"
            panels.append(Panel(title, _draw(tasks, outcome.mean, quantity, ranges), height))
    if not panels:
        return None
    return Section(
        "Every task after every task",
        plot=Plot("matrices", panels),
        caption="A row after each task, a column for each; framed: the task that was just learned. Darker is better, "
        "from the worst to the best of each column over all methods and the base: what pales below a frame was lost. "
        "Losses in nats per token, scores in %; means over seeds.",
    )


def _ranges(matrices: Sequence[Matrix]) -> list[tuple[float, float]]:
    """Return the lowest and the highest number of each task."""
    columns = zip(*[row for matrix in matrices for row in [matrix.base, *matrix.rows]], strict=True)
    return [(min(column), max(column)) for column in columns]


def _draw(
    tasks: Sequence[str], matrix: Matrix, quantity: Quantity, ranges: Sequence[tuple[float, float]]
) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        rows = [matrix.base, *matrix.rows]
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                low, high = ranges[j]
                share = (value - low) / (high - low) if high > low else 0.5
                share = _DARKEST * (share if quantity.higher_is_better else 1 - share)
                axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=_COLOURS(share), lw=0))
                ink = "#000000" if share < 0.5 else "#ffffff"
                axes.text(j, i, number(value), ha="center", va="center", fontsize=8, color=ink)
        for j in range(len(tasks)):
            axes.add_patch(Rectangle((j - 0.5, j + 0.5), 1, 1, fill=False, edgecolor=_FRAME, lw=2))
        axes.set_xlim(-0.5, len(tasks) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(range(len(rows)), ["base", *(f"after {task}" for task in tasks)], fontsize=8)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for side in axes.spines.values():
            side.set_visible(False)

    return draw

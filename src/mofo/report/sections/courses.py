"""Each task over the sequence: when it is learned, and what becomes of it then."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mofo.report.comparison import Comparison
from mofo.report.figures import INK, PAGE, Panel, legend_below, legend_height, mark_better, method_legend
from mofo.report.formatting import with_unit
from mofo.report.section import Plot, Section
from mofo.report.sequences import Outcome, Quantity, outcomes, quantities, reference_rows, tasks_of

_GROUND = "#888888"
"""Colour behind the steps in which a task is learned."""


def section(comparison: Comparison) -> Section | None:
    """Return a panel of the held-out loss of each task; None for one task."""
    measured = quantities(comparison)
    found = outcomes(comparison, measured[0]) if measured else []
    if not found:
        return None
    height = 3.0 + legend_height([comparison.label(outcome.method) for outcome in found])
    panels = [
        Panel(task, _draw(comparison, found, measured[0], place), height)
        for place, task in enumerate(tasks_of(comparison))
    ]
    return Section(
        "Each task over the sequence",
        plot=Plot("tasks", panels),
        caption=f"{measured[0].label[:1].upper()}{measured[0].label[1:]} of each task at every measurement; grey: "
        "while it was learned; thin lines: where tasks change; dotted: all tasks at once, where that was measured. "
        "Means over seeds.",
    )


def _draw(comparison: Comparison, found: list[Outcome], quantity: Quantity, place: int) -> Callable[[Axes], None]:
    metric = quantity.metrics[place]

    def draw(axes: Axes) -> None:
        base = (metric.of(comparison.results.base) or 0.0) * metric.scale
        for outcome in found:
            style = comparison.styles[outcome.method]
            courses = [[(p.step, metric.of(p)) for p in run.points] for run in outcome.configuration.runs]
            known = [{step: value * metric.scale for step, value in c if value is not None} for c in courses]
            steps = [step for step in known[0] if all(step in course for course in known)]
            means = [fmean(course[step] for course in known) for step in steps]
            (line,) = axes.plot([0, *steps], [base, *means], color=style.colour, ls=style.line, lw=1.6)
            line.set(marker=style.marker, markersize=4.5, markeredgecolor=PAGE, markeredgewidth=0.5)
        ends = _ends(comparison, found[0])
        for number, (start, end) in enumerate(pairwise([0, *ends])):
            if number == place:
                axes.axvspan(start, end, color=_GROUND, alpha=0.18, lw=0, zorder=0)
            axes.axvline(end, color=_GROUND, lw=0.8, zorder=1)
        for rows in reference_rows(comparison, quantity, "joint").values():
            axes.axhline(fmean(row[place] for row in rows), color=INK, lw=1, ls=(0, (1, 2)), zorder=1)
        mark_better(axes, "better ↑" if quantity.higher_is_better else "better ↓", 0.02, 0.02)
        axes.set_xlim(0, ends[-1])
        axes.margins(y=0.12)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(with_unit(quantity.label, quantity.unit))
        legend_below(axes, method_legend(comparison, [outcome.method for outcome in found]))

    return draw


def _ends(comparison: Comparison, outcome: Outcome) -> list[int]:
    """Return the step at which each task ends."""
    last = {point.task: point.step for point in outcome.configuration.runs[0].points}
    return [last[task] for task in tasks_of(comparison)]

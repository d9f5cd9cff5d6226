"""Other trainings, watched by a callback, beside the runs of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mofo.forgetting import Forgetting
from mofo.report.comparison import Comparison
from mofo.report.figures import INK, Panel, legend_below, legend_height, method_legend
from mofo.report.formatting import with_unit
from mofo.report.section import Plot, Section
from mofo.report.way import draw_way
from mofo.results import Metric

_DASHES = ((0, (4, 2)), (0, (1, 1)), (0, (4, 2, 1, 2)), (0, (8, 3)))
"""Lines of the trainings, none of which is a method's."""


def beside(comparison: Comparison, watched: Mapping[str, Forgetting]) -> Section | None:
    """Return a panel for each probe that both the comparison and a training measured; None if there is none."""
    height = 3.0 + legend_height([*map(comparison.label, comparison.methods), *watched])
    panels = [
        Panel(metric.label, _draw(comparison, metric, records), height)
        for metric in comparison.probe_headlines
        if (records := {name: record for name, record in watched.items() if _of(record, metric) and record.marks})
    ]
    if not panels:
        return None
    return Section(
        "Beside other trainings",
        plot=Plot("watched", panels),
        caption="Change from the base over the steps, positive is worse. Coloured: runs of this comparison; dashed, "
        "with standard errors: trainings watched by a callback. Their base, data and batches are their own: compare "
        "where these are the same.",
    )


def _of(record: Forgetting, metric: Metric) -> Metric | None:
    """Return a training's own description of a metric of the comparison."""
    return next((own for own in record.metrics if (own.source, own.name) == (metric.source, metric.name)), None)


def _draw(comparison: Comparison, metric: Metric, records: Mapping[str, Forgetting]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for run in comparison.runs:
            style = comparison.styles[run.method]
            amounts = [(point.step, comparison.amount(metric, point)) for point in run.points]
            known = [(0, 0.0), *((step, amount) for step, amount in amounts if amount is not None)]
            axes.plot(*zip(*known, strict=True), color=style.colour, ls=style.line, marker=style.marker, ms=4, lw=1.2)
        handles = method_legend(comparison, comparison.methods)
        for (name, record), dashes in zip(records.items(), cycle(_DASHES)):
            own = _of(record, metric)
            assert own is not None, "chosen by it"
            draw_way(axes, record, own, colour=INK, line=dashes)
            handles.append(Line2D([], [], color=INK, ls=dashes, lw=1.8, label=name))
        axes.axhline(0, color=INK, lw=1, zorder=1)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(with_unit("change from the base", metric.unit))
        legend_below(axes, handles)

    return draw

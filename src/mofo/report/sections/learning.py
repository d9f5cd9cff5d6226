"""Learning curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import MaxNLocator

from mofo.report.comparison import Comparison, Configuration
from mofo.report.figures import INK, Panel, legend_below, legend_height, mark_better
from mofo.report.section import Plot, Section
from mofo.results import Run


def section(comparison: Comparison) -> Section | None:
    """Return a panel for each method."""
    groups = {method: comparison.of_method(method) for method in comparison.methods}
    if not groups:
        return None
    label = comparison.learning.label
    faint = ", and faintly the training loss" if _shows_training(comparison) else ""
    height = 3.0 + max(legend_height([*map(comparison.settings_text, group)]) for group in groups.values())
    panels = [Panel(comparison.label(method), _draw(comparison, group), height) for method, group in groups.items()]
    return Section(
        "Learning curves",
        plot=Plot("learning", panels),
        caption=f"{label[:1].upper()}{label[1:]} at each checkpoint{faint}. Mean over seeds.",
    )


def _draw(comparison: Comparison, group: Sequence[Configuration]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        style = comparison.styles[group[0].method]
        base = comparison.as_loss(comparison.base_loss)
        for i, configuration in enumerate(group):
            colour = _shade(style.colour, i, len(group))
            training = _mean_by_step([_training(comparison, run) for run in configuration.runs])
            if training:
                axes.plot(*zip(*training, strict=True), color=colour, alpha=0.25, lw=0.8, zorder=1)
            measured = _mean_by_step(
                [
                    [(p.step, comparison.amount(comparison.learning, p)) for p in run.points]
                    for run in configuration.runs
                ]
            )
            axes.plot(
                *zip((0, base), *measured, strict=True),
                color=colour,
                marker=style.marker,
                ms=4,
                lw=1.6,
                zorder=2,
                label=comparison.settings_text(configuration),
            )
        axes.set_ylim(*_range(comparison))
        axes.set_xlim(0, comparison.last_step * 1.03)
        axes.axhline(base, color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
        axes.annotate("base", (axes.get_xlim()[1], base), ha="right", va="bottom", fontsize=8, color=INK)
        mark_better(axes, "better ↑" if comparison.learning.higher_is_better else "better ↓", 0.02, 0.02)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(comparison.learning.label + (" (training loss faint)" if _shows_training(comparison) else ""))
        if comparison.settings_text(group[0]):
            legend_below(axes)

    return draw


def _shows_training(comparison: Comparison) -> bool:
    """Return whether the training loss has a place on the axis of the learning metric: whether that is a loss too."""
    return not comparison.learning.higher_is_better


def _training(comparison: Comparison, run: Run) -> list[tuple[int, float | None]]:
    """Return the training loss of each logged step, in the unit of the learning metric; none where that is no loss."""
    if not _shows_training(comparison):
        return []
    scale = comparison.learning.scale
    return [(entry.step, None if entry.loss is None else entry.loss * scale) for entry in run.training]


def _mean_by_step(curves: Sequence[Sequence[tuple[int, float | None]]]) -> list[tuple[int, float]]:
    """Return the mean over seeds at each step at which all of them have a number."""
    known = [{step: value for step, value in curve if value is not None} for curve in curves]
    return [(step, fmean(curve[step] for curve in known)) for step in known[0] if all(step in c for c in known)]


def _range(comparison: Comparison) -> tuple[float, float]:
    """Return a range of the learning metric shared by all curves; a diverged run leaves it at its worse end."""
    points = [comparison.loss(point) for run in comparison.runs for point in run.points]
    training = [loss for run in comparison.runs for _, loss in _training(comparison, run)]
    low = min(loss for loss in [*points, *training, comparison.base_loss] if loss is not None)
    margin = 0.06 * (comparison.base_loss - low) or 0.05
    low, high = sorted(comparison.as_loss(end) for end in (low - margin, comparison.base_loss + 2 * margin))
    return low, high


def _shade(colour: str, i: int, count: int) -> tuple[float, float, float]:
    """Return the i-th of `count` shades of a colour, from light to full."""
    red, green, blue = to_rgb(colour)
    white = 0.6 * (1 - (i + 1) / count) if count > 1 else 0.0
    return red + (1 - red) * white, green + (1 - green) * white, blue + (1 - blue) * white

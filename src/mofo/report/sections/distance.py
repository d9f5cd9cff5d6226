"""Distance from the base, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, nan
from statistics import fmean

from matplotlib.axes import Axes

from mofo.report.comparison import Comparison, Configuration
from mofo.report.figures import Panel, legend_below, legend_height, mark_better
from mofo.report.formatting import with_unit
from mofo.report.section import Plot, Section
from mofo.results import LayerDistance, Metric, Run


def section(comparison: Comparison) -> Section | None:
    """Return a panel for each distance, with the configuration of each method that learned most."""
    chosen = [best for method in comparison.methods if (best := _best(comparison, method)) is not None]
    layers = [layer for configuration in chosen for run in configuration.runs for layer in _layers(run)]
    metrics = [
        metric
        for metric in comparison.results.metrics
        if metric.kind == "distance" and any(layer.number(metric.name) is not None for layer in layers)
    ]
    if not metrics:
        return None
    height = 3.2 + legend_height([*map(comparison.describe, chosen)])
    panels = [Panel(f"{metric.label} per layer", _draw(comparison, metric, chosen), height) for metric in metrics]
    return Section(
        "Distance from the base",
        plot=Plot("distance", panels),
        caption="At the end of training, for the configuration of each method with the "
        f"{comparison.lowest} {comparison.learning.label}. Mean over seeds.",
    )


def _best(comparison: Comparison, method: str) -> Configuration | None:
    """Return the configuration with the lowest loss at its end, of those whose layers were measured."""

    def final_loss(configuration: Configuration) -> float:
        losses = [comparison.loss(run.points[-1]) for run in _ended(configuration)]
        return fmean(inf if loss is None else loss for loss in losses)

    return min(filter(_ended, comparison.of_method(method)), key=final_loss, default=None)


def _ended(configuration: Configuration) -> list[Run]:
    """Return the runs whose layers were measured."""
    return [run for run in configuration.runs if _layers(run)]


def _layers(run: Run) -> list[LayerDistance]:
    return run.distance.layers if run.distance else []


def _draw(comparison: Comparison, metric: Metric, chosen: Sequence[Configuration]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for configuration in chosen:
            columns = zip(*map(_layers, _ended(configuration)), strict=True)
            values = [_mean([layer.number(metric.name) for layer in column]) * metric.scale for column in columns]
            style = comparison.styles[configuration.method]
            label = comparison.describe(configuration)
            axes.plot(values, color=style.colour, marker=style.marker, ls=style.line, ms=3.5, lw=1.3, label=label)
        names = [layer.layer for layer in _layers(_ended(chosen[0])[0])]
        last = len(names) - 1
        inner = [i for i in range(2, last - 1) if names[i].isdecimal() and int(names[i]) % 5 == 0]
        ticks = sorted({0, *inner, last})
        axes.set_xticks(ticks, [names[i].replace("_", "\n") for i in ticks])
        axes.set_ylim(bottom=0)
        mark_better(axes, "nearer to the base ↓", 0.02, 0.02)
        axes.set_xlabel("layer")
        axes.set_ylabel(with_unit(metric.label, metric.unit))
        legend_below(axes)

    return draw


def _mean(numbers: Sequence[float | None]) -> float:
    """Return the mean over seeds; NaN, which is not drawn, if a seed lacks the number."""
    known = [number for number in numbers if number is not None]
    return fmean(known) if len(known) == len(numbers) else nan

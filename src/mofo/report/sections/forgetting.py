"""What was forgotten against what was learned: the figure."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes

from mofo.report.comparison import Comparison, Configuration
from mofo.report.figures import INK, PAGE, Panel, legend_below, legend_height, mark_better, method_legend
from mofo.report.formatting import with_unit
from mofo.report.fronts import front
from mofo.report.ranking import compared_methods
from mofo.report.section import Plot, Section
from mofo.report.spread import Pooled
from mofo.results import Metric

_MOST_INSIDE = 4  # methods whose legend does not hide the data
_Fronts = dict[str, list[tuple[float, Pooled]]]


def section(comparison: Comparison) -> Section | None:
    """Return a panel for each metric of the probes, and for the distance."""
    height = 3.5
    if len(comparison.methods) > _MOST_INSIDE:
        height += legend_height([*map(comparison.label, comparison.methods)])
    metrics = [*comparison.forgotten, *comparison.distance_headlines]
    panels = [Panel(metric.label, _draw(comparison, metric), height) for metric in metrics]
    if not panels:
        return None
    return Section(
        "Forgetting against learning",
        plot=Plot("forgetting", panels),
        caption="Lower and further right is better. Thin lines are runs, with a marker at each checkpoint and an error "
        "bar at the end (seeds, or the probe's standard error if that is larger). The bold "
        "line is the front of a method: the least that any of its configurations had forgotten at this "
        f"{comparison.learning.label} or a better one (mean over seeds; the band is ± their standard deviation). The "
        f"base lies to the left, at {comparison.loss_text(comparison.base_loss)}.",
    )


def _draw(comparison: Comparison, metric: Metric) -> Callable[[Axes], None]:
    fronts = {method: front(comparison, method, metric) for method in comparison.methods}

    def draw(axes: Axes) -> None:
        faint = 0.35 if len(comparison.methods) <= _MOST_INSIDE else 0.15
        for run in comparison.runs:
            style = comparison.styles[run.method]
            points = comparison.trajectory(run, metric)
            losses, amounts = [loss for loss, _ in points], [amount for _, amount in points]
            axes.plot(losses, amounts, color=style.colour, alpha=faint, lw=0.9, zorder=2)
            (dots,) = axes.plot(losses[1:], amounts[1:], style.marker, color=style.colour, alpha=2 * faint, zorder=5)
            dots.set(markersize=4.2, markeredgecolor=PAGE, markeredgewidth=0.5)
        for method, envelope in fronts.items():
            style = comparison.styles[method]
            losses = [loss for loss, _ in envelope]
            means = [amount.mean for _, amount in envelope]
            spreads = [amount.std or 0.0 for _, amount in envelope]
            low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
            axes.fill_between(losses, low, high, color=style.colour, alpha=0.13, lw=0, zorder=1)
            (line,) = axes.plot(losses, means, color=style.colour, ls=style.line, lw=2.6, zorder=6)
            line.set(marker=style.marker, markevery=[-1], markersize=7.5, markeredgecolor=PAGE)
        for configuration in comparison.configurations:
            _bar(axes, comparison, configuration, metric)
        axes.axhline(0, color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
        _focus(axes, comparison, metric, fronts)
        _mark_base(axes, comparison, metric)
        mark_better(axes, "better ↘", 0.985, 0.02)
        axes.set_xlabel(f"{comparison.learning.label}  (learned more →)")
        axes.xaxis.set_major_formatter(lambda loss, _: f"{comparison.as_loss(loss):.4g}")
        axes.set_ylabel(with_unit("forgotten" if metric.kind == "forgotten" else metric.label, metric.unit))
        handles = method_legend(comparison, comparison.methods)
        if len(handles) > _MOST_INSIDE:
            legend_below(axes, handles)
        else:
            axes.legend(handles=handles, loc="best")

    return draw


def _bar(axes: Axes, comparison: Comparison, configuration: Configuration, metric: Metric) -> None:
    """Draw an error bar where a configuration ends."""
    amount, loss = (comparison.at_end(configuration, m) for m in (metric, comparison.learning))
    if amount is not None and loss is not None and (amount.bar or loss.std):
        colour = comparison.styles[configuration.method].colour
        axes.errorbar(
            comparison.as_loss(loss.mean),
            amount.mean,
            amount.bar,
            loss.std,
            fmt="none",
            color=colour,
            alpha=0.6,
            lw=1,
            capsize=2,
            zorder=4,
        )


def _mark_base(axes: Axes, comparison: Comparison, metric: Metric) -> None:
    """Mark the base at the left end of its line: there, or beyond the edge, where its loss lies."""
    inside = comparison.base_loss <= max(axes.get_xlim())
    value = comparison.base_text(metric) if metric.kind == "forgotten" else "0"
    axes.plot(
        0, 0, "D" if inside else "<", color=INK, ms=6, clip_on=False, transform=axes.get_yaxis_transform(), zorder=8
    )
    axes.annotate(
        f"base {value}",
        (0, 0),
        xycoords=axes.get_yaxis_transform(),
        xytext=(8, 3),
        textcoords="offset points",
        fontsize=8,
        color=INK,
        zorder=8,
    )


def _focus(axes: Axes, comparison: Comparison, metric: Metric, fronts: _Fronts) -> None:
    """Show where the runs end: the base and early checkpoints lie far to the left, methods that hardly learned as well.

    The range of amounts holds the fronts as well: they can lie below every checkpoint that is shown.
    """
    compared = compared_methods(comparison)
    trajectories = [comparison.trajectory(run, metric)[1:] for run in comparison.runs if run.method in compared]
    ends = [points[-1][0] for points in trajectories if points and points[-1][0] < comparison.base_loss]
    if not ends:
        return
    lowest = min(loss for points in trajectories for loss, _ in points)
    start = max(*ends, lowest + 0.15 * (comparison.base_loss - lowest))
    margin = 0.06 * (start - lowest)
    axes.set_xlim(start + margin, lowest - margin)
    envelopes = [
        [(loss, amount.mean) for loss, amount in envelope] for envelope in (fronts[method] for method in compared)
    ]
    seen = [amount for points in [*trajectories, *envelopes] for loss, amount in points if loss <= start + margin]
    amounts = [0.0, *seen]
    margin = 0.08 * (max(amounts) - min(amounts)) or 0.05
    axes.set_ylim(min(amounts) - margin, max(amounts) + margin)

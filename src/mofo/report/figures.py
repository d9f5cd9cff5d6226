"""The figures.

Every panel is a function that draws on given axes, so that the page can show panels one by one (they stay legible
on a phone) and `plots/` can hold them side by side.
"""

import io
from collections.abc import Callable, Sequence
from math import ceil, nan
from statistics import fmean
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mofo.report.comparison import (
    DISTANCE,
    Measure,
    Results,
    Run,
    Setting,
    finite,
    last_step,
    measured_runs,
    methods,
    settings,
)
from mofo.report.formatting import measure_name, measure_unit, method_name, options_text, shown
from mofo.report.fronts import Pooled, front, path
from mofo.report.terminal import compared


class Panel(NamedTuple):
    """A plot with its title; `height` in inches."""

    title: str
    draw: Callable[[Axes], None]
    height: float = 3.5


Styles = dict[str, tuple[str, str]]  # colour and marker of each method

# Okabe and Ito's palette, which stays distinct for colour-blind readers (yellow left out: too faint on white).
_FIXED = {"adamw": ("#0072B2", "o"), "mofo": ("#D55E00", "s")}
_OTHERS = [("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"), ("#000000", "X")]
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#333333",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.edgecolor": "none",  # no frame, but white behind it: a line must not strike its text through
    "legend.framealpha": 0.85,
    "legend.fontsize": 8.5,
    "lines.solid_capstyle": "round",
    "text.parse_math": False,  # names come from users: a dollar sign is a dollar sign
    "svg.hashsalt": "mofo",  # the same ids, and so the same file, whenever it is drawn again
}
_WIDTH = 4.8  # inches, of a panel
_BELOW = {"loc": "upper left", "bbox_to_anchor": (-0.04, -0.24), "handlelength": 1.6}  # a legend under the axes


def figures(results: Results) -> dict[str, list[Panel]]:
    """The panels of each figure by its file name: forgetting, learning, distance. Empty figures are left out."""
    styles = style_of(results)
    found = {
        "forgetting": [Panel(measure_name(m), _forgetting(results, m, styles)) for m in compared(results)],
        "learning": _learning_panels(results, styles),
        "distance": _distance_panels(results, styles),
    }
    return {name: panels for name, panels in found.items() if panels} if measured_runs(results) else {}


def style_of(results: Results) -> Styles:
    """Colour and marker of each method, the same in every figure."""
    others = [method for method in methods(results) if method not in _FIXED]
    free = {method: _OTHERS[i % len(_OTHERS)] for i, method in enumerate(others)}
    return {method: _FIXED.get(method) or free[method] for method in methods(results)}


def png(panels: Sequence[Panel]) -> bytes:
    """Panels side by side (two a row) as a PNG."""
    return _save(panels, "png")


def svg(panel: Panel) -> str:
    """One panel as SVG text."""
    return _save([panel], "svg").decode()


def _save(panels: Sequence[Panel], kind: str) -> bytes:
    columns = min(2, len(panels))
    rows = ceil(len(panels) / columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH * columns, panels[0].height * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flat
        for axes, panel in zip(grid, panels, strict=False):
            axes.set_title(panel.title)
            panel.draw(axes)
        for axes in list(figure.axes)[len(panels) :]:
            axes.remove()
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _forgetting(results: Results, measure: Measure, styles: Styles) -> Callable[[Axes], None]:
    """Forgotten against held-out loss: thin lines for runs, bold for each method's front."""
    envelopes = {method: front(results, method, *measure) for method in methods(results)}

    def draw(axes: Axes) -> None:
        base = results["base"]
        for run in measured_runs(results):
            colour, marker = styles[run["method"]]
            losses, amounts = zip(*path(base, run, *measure), strict=True)
            amounts = [shown(measure, amount) for amount in amounts]
            axes.plot(losses, amounts, color=colour, alpha=0.3, lw=0.9, zorder=2)
            dots = {"color": colour, "alpha": 0.7, "ms": 4.2, "mec": "white", "mew": 0.5}
            axes.plot(losses[1:], amounts[1:], marker, zorder=5, **dots)
        for method in methods(results):
            losses, pooled = zip(*envelopes[method], strict=True)
            means = [shown(measure, amount.mean) for amount in pooled]
            spread = [shown(measure, amount.std or 0.0) for amount in pooled]
            low, high = ([m + sign * s for m, s in zip(means, spread, strict=True)] for sign in (-1, 1))
            axes.fill_between(losses, low, high, color=styles[method][0], alpha=0.13, lw=0, zorder=1)
            axes.plot(losses, means, color=styles[method][0], lw=2.6, zorder=4)
        axes.axhline(0, color="#888888", lw=1, ls=(0, (4, 3)), zorder=1)
        _focus(axes, results, measure, envelopes)
        axes.set_xlabel("held-out loss  (learned more →)")
        axes.set_ylabel(measure_unit(measure) if measure == DISTANCE else f"forgotten, {measure_unit(measure)}")
        axes.legend(handles=_method_handles(styles), loc="best")

    return draw


def _focus(axes: Axes, results: Results, measure: Measure, envelopes: dict[str, list[tuple[float, Pooled]]]) -> None:
    """Show where the runs end: the base and early checkpoints lie far to the left, a diverged run beyond them.

    The range of amounts holds the fronts as well: they can lie below every checkpoint that is shown.
    """
    base_loss = results["base"]["learned"]["loss"]
    paths = [path(results["base"], run, *measure)[1:] for run in measured_runs(results)]
    ends = [points[-1][0] for points in paths if points and points[-1][0] < base_loss]
    if not ends:
        return
    lowest = min(loss for points in paths for loss, _ in points)
    start = max(*ends, lowest + 0.15 * (base_loss - lowest))
    margin = 0.06 * (start - lowest)
    axes.set_xlim(start + margin, lowest - margin)
    fronts = [[(loss, amount.mean) for loss, amount in envelope] for envelope in envelopes.values()]
    seen = [amount for points in [*paths, *fronts] for loss, amount in points if loss <= start + margin]
    amounts = [0.0, *(shown(measure, amount) for amount in seen)]
    margin = 0.08 * (max(amounts) - min(amounts)) or 0.05
    axes.set_ylim(min(amounts) - margin, max(amounts) + margin)


def _learning_panels(results: Results, styles: Styles) -> list[Panel]:
    names = [setting.method for setting in settings(results)]
    lines = max((ceil(names.count(method) / 2) for method in names), default=0)
    height = 3.0 + 0.18 * lines  # of the legend, two settings a line
    return [Panel(method_name(m), _learning(results, m, styles[m]), height) for m in methods(results)]


def _learning(results: Results, method: str, style: tuple[str, str]) -> Callable[[Axes], None]:
    """Held-out loss against the step for each setting of a method, training loss faint behind it."""

    def draw(axes: Axes) -> None:
        base_loss = results["base"]["learned"]["loss"]
        groups = [(setting, runs) for setting, runs in settings(results).items() if setting.method == method]
        for i, (setting, runs) in enumerate(groups):
            colour = _shade(style[0], i, len(groups))
            training = _mean_by_step([[(t["step"], t.get("loss")) for t in run.get("training") or []] for run in runs])
            if training:
                axes.plot(*zip(*training, strict=True), color=colour, alpha=0.25, lw=0.8, zorder=1)
            held_out = _mean_by_step([[(p["step"], p["learned"]["loss"]) for p in run["points"]] for run in runs])
            axes.plot(
                *zip((0, base_loss), *held_out, strict=True),
                color=colour,
                marker=style[1],
                ms=4,
                lw=1.6,
                zorder=2,
                label=options_text(setting),
            )
        axes.set_ylim(*_loss_range(results))
        axes.set_xlim(0, last_step(results) * 1.03)
        axes.set_xlabel("step")
        axes.set_ylabel("held-out loss (training loss faint)")
        axes.legend(**_BELOW, ncols=2)

    return draw


def _distance_panels(results: Results, styles: Styles) -> list[Panel]:
    """Distance per layer at the end of training, for the setting of each method with the lowest held-out loss."""
    chosen: dict[Setting, list[Run]] = {}
    for method in methods(results):
        ended = {
            setting: done
            for setting, runs in settings(results).items()
            if setting.method == method and (done := [run for run in runs if (run.get("distance") or {}).get("layers")])
        }
        if ended:
            setting = min(ended, key=lambda s: _final_loss(ended[s]))
            chosen[setting] = ended[setting]
    if not chosen:
        return []
    height = 3.2 + 0.2 * len(chosen)  # a line of the legend for each
    return [
        Panel("distance (L2) per layer", _distance(chosen, "l2", "L2 norm", styles), height),
        Panel("entries that moved, per layer", _distance(chosen, "moved", "% of entries", styles), height),
    ]


def _distance(chosen: dict[Setting, list[Run]], key: str, label: str, styles: Styles) -> Callable[[Axes], None]:
    """One line per setting over the layers, mean over seeds."""

    def draw(axes: Axes) -> None:
        for setting, runs in chosen.items():
            layers = [layer["layer"] for layer in runs[0]["distance"]["layers"]]
            columns = zip(*([layer[key] for layer in run["distance"]["layers"]] for run in runs), strict=True)
            values = [nan if None in column else fmean(column) * (100 if key == "moved" else 1) for column in columns]
            colour, marker = styles[setting.method]
            name = f"{method_name(setting.method)}, {options_text(setting)}"
            axes.plot(values, color=colour, marker=marker, ms=3.5, lw=1.3, label=name)
        last = len(layers) - 1
        inner = [i for i in range(2, last - 1) if layers[i].isdecimal() and int(layers[i]) % 5 == 0]
        ticks = [0, *inner, last]
        axes.set_xticks(ticks, [layers[i].replace("_", "\n") for i in ticks])
        axes.set_ylim(bottom=0, top=105 if key == "moved" else None)
        axes.set_xlabel("layer")
        axes.set_ylabel(label)
        axes.legend(**_BELOW)

    return draw


def _method_handles(styles: Styles) -> list[Line2D]:
    return [
        Line2D([], [], color=colour, marker=marker, ms=5, lw=2.6, label=method_name(method))
        for method, (colour, marker) in styles.items()
    ]


def _mean_by_step(curves: Sequence[Sequence[tuple[int, Any]]]) -> list[tuple[int, float]]:
    """Mean over seeds at each step that all of them have."""
    known = [{step: value for step, value in curve if finite(value) is not None} for curve in curves]
    return [(step, fmean(curve[step] for curve in known)) for step in known[0] if all(step in c for c in known)]


def _final_loss(runs: Sequence[Run]) -> float:
    losses = [finite(run["points"][-1]["learned"]["loss"]) for run in runs]
    return fmean(loss if loss is not None else float("inf") for loss in losses)


def _loss_range(results: Results) -> tuple[float, float]:
    """A range of losses shared by all learning curves; a diverged run leaves it at the top."""
    base_loss = results["base"]["learned"]["loss"]
    losses = [point["learned"]["loss"] for run in measured_runs(results) for point in run["points"]]
    losses += [t.get("loss") for run in measured_runs(results) for t in run.get("training") or []]
    low = min(loss for loss in [*losses, base_loss] if finite(loss) is not None)
    margin = 0.06 * (base_loss - low) or 0.05
    return low - margin, base_loss + 2 * margin


def _shade(colour: str, i: int, count: int) -> tuple[float, float, float]:
    """The i-th of `count` shades of a colour, from light to full: settings of one method."""
    red, green, blue = matplotlib.colors.to_rgb(colour)
    white = 0.6 * (1 - (i + 1) / count) if count > 1 else 0.0
    return red + (1 - red) * white, green + (1 - green) * white, blue + (1 - blue) * white

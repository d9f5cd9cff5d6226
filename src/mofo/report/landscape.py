"""The report of a landscape: a map of each number in the plane, the models on it, and their paths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.patheffects import withStroke

from mofo.errors import UserError
from mofo.files import write_files
from mofo.landscape import End, Landscape, Values, load_landscape
from mofo.report.figures import INK, PAGE, Panel, legend_below, png
from mofo.report.formatting import NOTHING, number
from mofo.report.render import render
from mofo.report.section import Cell, Group, Plot, Row, Section, Table
from mofo.report.styles import BASE, Style, make_styles
from mofo.results import Metric

COLOURS = ListedColormap(colormaps["Greys"](np.linspace(0, 0.75, 256)))
"""Light is low. Grey leaves the colours to the models, and black to the base."""

LEVELS = 24
"""Shades of a map."""

CONTOURS = 8
"""Lines of a map."""

OFF_PLANE = 0.1
"""In the unit of the axes: a model that is farther off is drawn hollow."""


def write_landscape_report(folder: Path) -> Path:
    """Draw `report.html` and `plots/landscape.png` from the files of a landscape.

    Returns:
        The path of `report.html`.

    Raises:
        UserError: The files are missing or damaged, or the report cannot be written.
    """
    found = load_landscape(folder)
    home = str(Path.home())
    plot = Plot("landscape", maps(found))
    sections = [Section("The plane", plot=plot, caption=_caption(found)), Section("The models", table=_table(found))]
    page = render(
        "landscape.html.jinja",
        title=f"Around {Path(found.base).name}: {_names(found)}",
        data=f"{found.held_out_rows} held-out rows of {found.data}".replace(home, "~") if found.data else "",
        missing=len(found.missing),
        first=found.ends[0].name,
        second=found.ends[1].name,
        unit=number(found.unit),
        angle=number(found.angle),
        sections=sections,
    )
    try:
        write_files(folder, {"plots/landscape.png": png(plot.panels), "report.html": page.encode()})
    except OSError as error:
        raise UserError(f"The report cannot be written to {folder}: {error.strerror}.") from None
    return folder / "report.html"


def maps(found: Landscape) -> list[Panel]:
    """Return a map for each number that stands for its task or probe."""
    return [Panel(metric.label, _draw(found, metric), height=4.4) for metric in _shown(found)]


def models_table(found: Landscape) -> list[list[str]]:
    """Return the models with their places and numbers, for the terminal; the first row has the heads."""
    metrics = _shown(found)
    heads = ["", "x", "y", "off the plane", "L2 distance", *(metric.label for metric in metrics)]
    ends = [[end.name, *_place(end), *_numbers(end.values, metrics)] for end in found.ends]
    return [heads, ["base", "0", "0", "0", "0", *_numbers(found.at_base, metrics)], *ends]


def _names(found: Landscape) -> str:
    return ", ".join(end.name for end in found.ends)


def _shown(found: Landscape) -> list[Metric]:
    return [metric for metric in found.metrics if metric.headline]


def _place(end: End) -> list[str]:
    return [number(end.x), number(end.y), number(end.off), number(end.l2)]


def _numbers(values: Values, metrics: list[Metric]) -> list[str]:
    found = [(values.of(metric), metric) for metric in metrics]
    return [NOTHING if value is None else number(value * metric.scale, 4) for value, metric in found]


def _caption(found: Landscape) -> str:
    text = "Lines join the checkpoints of a training. "
    if any(end.off > OFF_PLANE for end in found.ends):
        text += (
            "A hollow mark is the projection of a model that lies more than a tenth of a unit off the plane: the map "
            "says nothing of it, the table does. "
        )
    measured = f"{len(found.grid) - len(found.missing)} of {len(found.grid)} points of the grid are measured"
    return f"{text}{measured}; between them colours are interpolated."


def _table(found: Landscape) -> Table:
    styles = _styles(found)
    heads, base, *ends = models_table(found)
    rows = [Row(Cell("base"), BASE, [Cell(text) for text in base[1:]])]
    rows += [
        Row(Cell(name), styles[end.name], [Cell(text) for text in cells])
        for end, (name, *cells) in zip(found.ends, ends, strict=True)
    ]
    units = ["", "", "", "units", "", *(metric.unit for metric in _shown(found))]
    cells = [Cell(head, unit) for head, unit in zip(heads, units, strict=True)]
    return Table("model", cells[1:], [Group(rows)])


def _styles(found: Landscape) -> dict[str, Style]:
    names = [end.name for end in found.ends]
    return make_styles(names, names[0])


def _draw(found: Landscape, metric: Metric) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        _draw_map(axes, found, metric)
        for end, style in zip(found.ends, _styles(found).values(), strict=True):
            _draw_path(axes, end, style)
        axes.plot(0, 0, "*", color=INK, mec=PAGE, mew=0.8, ms=13, zorder=5, label="base")
        axes.set_aspect("equal")
        axes.set(xlim=(found.xs[0], found.xs[-1]), ylim=(found.ys[0], found.ys[-1]))
        axes.set_xlabel(f"towards {found.ends[0].name}")
        axes.set_ylabel(f"across, towards {found.ends[1].name}")
        legend_below(axes)

    return draw


def _draw_map(axes: Axes, found: Landscape, metric: Metric) -> None:
    """Fill the plane with shades of a number, on a log scale where it is positive and lower is better."""
    values = {point.place: point.values.of(metric) for point in found.points}
    known = {place: value * metric.scale for place, value in values.items() if value is not None}
    positive = [value for value in known.values() if value > 0]
    logarithmic = not metric.higher_is_better and bool(positive) and min(known.values()) >= 0
    shown = positive if logarithmic else list(known.values())
    if len(set(shown)) < 2:  # nothing measured yet, or a number that is the same everywhere
        return
    low, high = min(shown), max(shown)
    heights = np.array([[known.get((x, y), np.nan) for x in found.xs] for y in found.ys])
    heights = np.ma.masked_invalid(heights.clip(low, high))
    space, norm = (np.geomspace, LogNorm(low, high)) if logarithmic else (np.linspace, Normalize(low, high))
    shades = axes.contourf(found.xs, found.ys, heights, levels=space(low, high, LEVELS + 1), norm=norm, cmap=COLOURS)
    shades.set_rasterized(True)  # as paths they would be most of the page
    lines = space(low, high, CONTOURS + 2)[1:-1]
    axes.contour(found.xs, found.ys, heights, levels=lines, colors=INK, linewidths=0.5, alpha=0.45)
    ticks = space(low, high, 6)
    bar = axes.figure.colorbar(shades, cax=axes.inset_axes((1.04, 0, 0.05, 1)), ticks=ticks)
    bar.ax.minorticks_off()
    bar.ax.set_yticklabels([number(value) for value in ticks])
    bar.set_label(", ".join(filter(None, [metric.unit, "log scale" if logarithmic else ""])))


def _draw_path(axes: Axes, end: End, style: Style) -> None:
    """Draw a model, and the way to it from the base through its checkpoints."""
    places = [(0.0, 0.0), *(step.place for step in end.path), end.place]
    if end.path:
        (line,) = axes.plot(*zip(*places, strict=True), color=style.colour, lw=1.6, marker=".", ms=6, zorder=3)
        line.set_path_effects([withStroke(linewidth=3.2, foreground=PAGE)])
    face = PAGE if end.off > OFF_PLANE else style.colour
    edge = style.colour if end.off > OFF_PLANE else PAGE
    axes.plot(*end.place, style.marker, color=face, mec=edge, mew=1.2, ms=9, zorder=4, label=end.name)

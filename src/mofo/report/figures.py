"""Figures as PNG files and as SVG for the page.

Every panel is a function that draws on given axes, so that the page can show panels one by one (they stay legible
on a phone) and `plots/` can hold them side by side.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from math import ceil
from typing import Any, NamedTuple

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mofo.report.comparison import Comparison


class Panel(NamedTuple):
    """A plot with its title; `height` in inches."""

    title: str
    draw: Callable[[Axes], None]
    height: float = 3.5


INK = "#1d2025"
"""Colour of text and of the base."""

NEUTRAL = "#4f5661"
"""Colour of what is said about a panel."""

PAGE = "#fdfdfd"
"""Colour of the page behind a panel, for the edges of markers and the ground of legends."""

_ON_DARK = {
    INK: "#e7e9ec",
    NEUTRAL: "#a9b0bb",
    PAGE: "#16181c",
    "#e4e6e9": "#30353d",
    "#888888": "#7d8590",
    "#343434": "#c4c9d1",
}

_LINE_OF_LEGEND = 0.2  # inches
_HALF = 27  # letters of a legend's entry of which two fit beside each other

_STYLE: dict[Any, Any] = {  # matplotlib types the keys in recent versions alone
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": PAGE,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#343434",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e6e9",
    "grid.linewidth": 0.8,
    "xtick.color": "#343434",
    "ytick.color": "#343434",
    "legend.facecolor": PAGE,
    "savefig.facecolor": PAGE,
    "legend.edgecolor": "none",  # no frame, but white behind it: a line must not strike its text through
    "legend.framealpha": 0.85,
    "legend.fontsize": 8.5,
    "lines.solid_capstyle": "round",
    "text.parse_math": False,  # names come from users: a dollar sign is a dollar sign
    "svg.fonttype": "none",  # text, not outlines of letters: a page is half as large
    "svg.hashsalt": "mofo",  # the same ids, and so the same file, whenever it is drawn again
}
_COMMENT, _INDENT = re.compile("<!--.*?-->", re.DOTALL), re.compile(r"\n\s+")
_WIDTH = 4.2  # inches, of a panel


def png(panels: Sequence[Panel]) -> bytes:
    """Return panels side by side, two in a row, as a PNG."""
    return _save(panels, "png")


def svg(panel: Panel) -> str:
    """Return one panel as SVG text, on no background, for a white page."""
    picture = _INDENT.sub("\n", _COMMENT.sub("", _save([panel], "svg").decode()))
    return picture.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")  # of much the same widths


def for_dark_page(picture: str) -> str:
    """Return an SVG of `svg` for a dark page: text, axes and grid in light greys, methods in their own colours."""
    for light, dark in _ON_DARK.items():
        picture = picture.replace(light, dark)
    return picture


def mark_better(axes: Axes, text: str, x: float, y: float) -> None:
    """Write into a corner of a panel which way is better; `x` and `y` are shares of its width and height."""
    axes.annotate(
        text,
        (x, y),
        xycoords="axes fraction",
        ha="left" if x < 0.5 else "right",
        va="bottom" if y < 0.5 else "top",
        color=NEUTRAL,
        fontsize=9,
        fontweight="bold",
        zorder=9,
    )


def legend_below(axes: Axes, handles: Sequence[Artist] | None = None) -> None:
    """Draw the legend of a panel under it, in two columns where the labels are short enough."""
    if handles is None:
        handles, _ = axes.get_legend_handles_labels()
    columns = _legend_columns([str(handle.get_label()) for handle in handles])
    axes.figure.legend(handles=handles, loc="outside lower left", ncols=columns, handlelength=2)


def legend_height(labels: Sequence[str]) -> float:
    """Return the height of a legend with these labels, in inches."""
    return _LINE_OF_LEGEND * ceil(len(labels) / _legend_columns(labels))


def _legend_columns(labels: Sequence[str]) -> int:
    return 2 if max(map(len, labels), default=0) <= _HALF else 1


def method_legend(comparison: Comparison, methods: Iterable[str]) -> list[Line2D]:
    """Return a legend's entries for methods."""
    styles = [(method, comparison.styles[method]) for method in methods]
    return [
        Line2D([], [], color=s.colour, marker=s.marker, ls=s.line, ms=5, lw=2.2, label=comparison.label(method))
        for method, s in styles
    ]


def _save(panels: Sequence[Panel], kind: str) -> bytes:
    columns = min(2, len(panels))
    rows = ceil(len(panels) / columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH * columns, panels[0].height * rows), layout="constrained")
        places = figure.subfigures(rows, columns, squeeze=False).flat
        for place, panel in zip(places, panels, strict=False):
            axes = place.subplots()
            axes.set_title(panel.title)
            panel.draw(axes)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()

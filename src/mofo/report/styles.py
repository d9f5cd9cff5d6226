"""How methods look: a colour, a marker and a line for each, the same in every figure and table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Style(NamedTuple):
    """How a method looks: colour, marker and line style as matplotlib has them, and the marker as a character."""

    colour: str
    marker: str
    line: str | tuple[int, tuple[int, ...]]
    symbol: str


# Okabe and Ito's palette, which colour-blind readers can distinguish; yellow and black are left out, because they can
# hardly be seen on a white and on a dark page. The first colour is the reference's alone.
_REFERENCE = Style("#0072B2", "o", "-", "●")
_COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A7A")
_MARKERS = {"s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}
_LINES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (5, 2)), (0, (2, 1)))


BASE = Style("#888888", "_", "-", "–")
"""Style of what is no method that is compared."""


def make_styles(methods: Iterable[str], reference: str | None) -> dict[str, Style]:
    """Return the style of each method.

    The reference always has the same style. 6 colours and 7 markers, both cycled, give the next 42 methods styles of
    which no two have both in common; methods of one colour differ in their lines as well.
    """
    markers = list(_MARKERS.items())
    others = [method for method in methods if method != reference]
    styles = {} if reference is None else {reference: _REFERENCE}
    for i, method in enumerate(others):
        marker, symbol = markers[i % len(markers)]
        line = _LINES[i // len(_COLOURS) % len(_LINES)]
        styles[method] = Style(_COLOURS[i % len(_COLOURS)], marker, line, symbol)
    return styles

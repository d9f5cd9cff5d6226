"""What a section of the page is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mofo.report.comparison import Comparison, Configuration
from mofo.report.figures import Panel
from mofo.report.formatting import plural
from mofo.report.styles import Style


@dataclass(frozen=True)
class Cell:
    """A cell of a table, with a smaller line under its text."""

    text: str
    note: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table: a method, in its style, and its cells."""

    head: Cell
    style: Style
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Group:
    """Rows of a table under a heading of their own; without a title, under none."""

    rows: Sequence[Row]
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table of methods.

    Attributes:
        corner: Head of the column of methods.
        heads: Heads of the other columns, with units as notes.
        groups: The rows.
        spans: Headings over several columns, and how many each covers.
    """

    corner: str
    heads: Sequence[Cell]
    groups: Sequence[Group]
    spans: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Plot:
    """Panels of a figure; `name` is that of its file in `plots/`."""

    name: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Written:
    """A text that a model wrote; the base has no style."""

    author: str
    text: str
    style: Style | None = None


@dataclass(frozen=True)
class Conversation:
    """A prompt, the answer that the data has if any, and what models answered; `title` stands for it folded in."""

    prompt: str
    expected: str
    answers: Sequence[Written]
    title: str = ""


@dataclass(frozen=True)
class Details:
    """A part that is folded in: terms with their values, or text as it is."""

    title: str
    terms: Mapping[str, str] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Section:
    """A section of the page. What it has is shown in the order of these fields."""

    title: str
    terms: Mapping[str, str] = field(default_factory=dict)
    plot: Plot | None = None
    table: Table | None = None
    conversations: Sequence[Conversation] = ()
    caption: str = ""
    items: Sequence[str] = ()
    details: Sequence[Details] = ()


def configuration_row(comparison: Comparison, configuration: Configuration, seeds: int, cells: Sequence[str]) -> Row:
    """Return a row of a configuration: under the method its settings, its number of seeds, and whether it diverged."""
    settings = comparison.settings_text(configuration)
    diverged = comparison.divergence_text(configuration)
    note = " · ".join(filter(None, [settings, plural(seeds, "seed") if seeds > 1 else "", diverged]))
    head = Cell(comparison.label(configuration.method), note)
    return Row(head, comparison.styles[configuration.method], [Cell(text) for text in cells])

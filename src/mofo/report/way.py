"""The report of `forgetting.json`: a training that was watched, or the way from a base to a tuned model."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mofo.errors import UserError
from mofo.files import write_files
from mofo.forgetting import Forgetting, Mark
from mofo.report.figures import INK, PAGE, Panel, mark_better, png
from mofo.report.formatting import NOTHING, joined, markdown_table, number, signed, with_unit
from mofo.report.render import render
from mofo.report.section import Cell, Group, Plot, Row, Section, Table
from mofo.report.styles import BASE, make_styles
from mofo.results import Metric, Outcome, Point

if TYPE_CHECKING:
    from rich.table import Table as TerminalTable

_OUTCOMES: dict[Outcome | Literal["away"] | None, str] = {
    "away": "moved away from the base on",
    "worse": "got worse on",
    "better": "gained on",
    "unchanged": "shows no change beyond noise on",
    "unclear": "has too few questions to tell on",
    None: "has no finite",
}
"""What is said of the model where a probe has an outcome.

A distance from the base is above chance after any training, however little that forgot: only how large it is tells.
"""

_STYLE = make_styles([], "way")["way"]


def way_outcome(record: Forgetting) -> str:
    """Return what came out, in a sentence."""
    if record.end is None:
        return f"Nothing was measured of {record.model} yet but the base."
    if record.over == "step":
        return f"After step {record.marks[-1].at:g}, {record.model} {_outcomes(record, record.end)}."
    learning, forgetting = record.learning, record.forgetting
    if learning is None:
        return f"{record.model} did not learn beyond chance on these data: there is nothing to weigh."
    if forgetting is None:
        return f"{record.model} forgot nothing beyond chance on these probes: take it as it is."
    knee = next((mark for mark in record.marks if mark.at == record.knee), None)
    if knee is None:
        return f"No share of the change that was measured keeps more of the learning than of the {forgetting.label}."
    learned, forgotten = (_share(record, metric, knee) for metric in (learning, forgetting))
    return (
        f"At {knee.at:g} of the change, {record.model} keeps {learned} of what it learned and {forgotten} of the "
        f"{forgetting.label}: the knee of the way."
    )


def way_table(record: Forgetting) -> TerminalTable:
    """Return a row for each measurement, for the terminal."""
    from rich import box
    from rich.table import Table as TerminalTable

    heads, rows = _cells(record)
    table = TerminalTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, caption=_caption(record))
    for head in heads:
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def way_legend(record: Forgetting) -> list[str]:
    """Return a line for each metric that says what it is, and what the base has."""
    lines = []
    for metric in _headlines(record):
        about = f": {metric.description}" if metric.description else ""
        value = metric.of(record.base)
        base = NOTHING if value is None else number(value * metric.scale, 4)
        lines.append(f"{metric.label}{about} (base {with_unit(base, metric.unit) if metric.unit else base})")
    return lines


def way_markdown(record: Forgetting) -> str:
    """Return the table in Markdown, and the outcome under it."""
    heads, rows = _cells(record)
    lines = [heads, ["---:"] * len(heads), *rows]
    table = markdown_table(lines)
    return f"{table}\n{way_outcome(record)}\n"


def way_csv(record: Forgetting) -> str:
    """Return a row for each measurement and metric as comma-separated values with every digit.

    Numbers are in the unit that is named; `change`, positive where worse, and its ends are against the base. What was
    not measured is empty.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([record.over, "metric", "unit", "value", "error", "change", "change error", "low", "high"])
    for at, point in [(0.0, record.base), *((mark.at, mark.point) for mark in record.marks)]:
        for metric in record.metrics:
            interval = metric.worse_interval(point) or (None, None)
            changes = [metric.change(record.base, point), metric.change_error(point), *interval]
            numbers = [metric.of(point), metric.error(point), *(changes if point is not record.base else [None] * 4)]
            scaled = [None if value is None else value * metric.scale for value in numbers]
            rows.writerow([f"{at:g}", metric.label, metric.unit, *scaled])
    return text.getvalue()


def write_way_report(record: Forgetting, folder: Path) -> Path:
    """Draw `report.html` and `plots/*.png` into a folder.

    Raises:
        UserError: They cannot be written. Nothing is written then.
    """
    sections = way_sections(record)
    kind = "watched while it was trained" if record.over == "step" else "on the way from its base"
    page = render(
        "way.html.jinja", title=f"{record.model}, {kind}", outcome=way_outcome(record), sections=sections, record=record
    )
    files = {f"plots/{section.plot.name}.png": png(section.plot.panels) for section in sections if section.plot}
    try:
        write_files(folder, files | {"report.html": page.encode()})
    except OSError as error:
        raise UserError(f"The report cannot be written to {folder}: {error.strerror}.") from None
    return folder / "report.html"


def way_sections(record: Forgetting) -> list[Section]:
    """Return the figures of the page, in sections; none where only the base was measured."""
    if not record.marks:
        return []
    panels = [Panel(metric.label, _draw_course(record, metric)) for metric in _headlines(record)]
    title = "Forgetting along the training" if record.over == "step" else "Learning and forgetting on the way"
    sections = [Section(title, plot=Plot("forgetting", panels), caption=_caption(record), items=way_legend(record))]
    learned = next((metric for metric in _headlines(record) if metric.kind == "learned"), None)
    if record.over == "scale" and learned is not None:
        probes = [metric for metric in _headlines(record) if metric.kind == "forgotten"]
        paths = [Panel(metric.label, _draw_path(record, learned, metric)) for metric in probes]
        caption = "From the base (0) to the tuned model (1), with the share of the change at each point."
        if record.knee is not None:
            caption += " Ringed: the knee, where the way lies farthest below the dashed line between its ends."
        sections.insert(0, Section("Forgetting against learning", plot=Plot("way", paths), caption=caption))
    if any(entry.loss is not None for entry in record.training):
        plot = Plot("loss", [Panel("Training loss", _draw_loss(record))])
        sections.append(Section("The course of the training", plot=plot))
    sections.append(Section("Every measurement", table=_table(record)))
    return sections


def _table(record: Forgetting) -> Table:
    """Return the table of the page; the knee is a note under its share."""
    heads, rows = _cells(record)
    if _share_metrics(record):
        heads, notes = heads[:-1], [row.pop() for row in rows]
    else:
        notes = [""] * len(rows)
    styles = [BASE, *[_STYLE] * (len(rows) - 1)]
    return Table(
        corner=heads[0],
        heads=[Cell(head) for head in heads[1:]],
        groups=[
            Group(
                [
                    Row(Cell(row[0], note), style, [Cell(text) for text in row[1:]])
                    for row, note, style in zip(rows, notes, styles, strict=True)
                ]
            )
        ],
    )


def _headlines(record: Forgetting) -> list[Metric]:
    return [metric for metric in record.metrics if metric.headline]


def _outcomes(record: Forgetting, end: Point) -> str:
    """Return what is said of each probe at the end."""
    found: dict[Outcome | Literal["away"] | None, list[str]] = {}
    for metric in _headlines(record):
        change, error = metric.change(record.base, end), metric.change_error(end)
        amount = f" ({_change(change, error, metric)})" if change is not None else ""
        outcome = metric.outcome(record.base, end)
        said = "away" if outcome == "worse" and _is_distance(record, metric) else outcome
        found.setdefault(said, []).append(f"{metric.label}{amount}")
    return "; ".join(f"{words} {joined(found[outcome])}" for outcome, words in _OUTCOMES.items() if outcome in found)


def _is_distance(record: Forgetting, metric: Metric) -> bool:
    """Return whether a metric is 0 for the base and never better than that, as a divergence is."""
    changes = [metric.change(record.base, mark.point) for mark in record.marks]
    return metric.of(record.base) == 0 and all(change >= 0 for change in changes if change is not None)


def _caption(record: Forgetting) -> str:
    text = "Change from the base, positive is worse; ± is the standard error"
    if record.over == "step" or record.learning is None or record.forgetting is None:
        return f"{text}."
    return (
        f"{text}. Kept: share of the change at 1, of the {record.learning.label} and of the {record.forgetting.label}."
    )


def _cells(record: Forgetting) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows of the table; the base's row has its values, all others changes."""
    metrics, shares = _headlines(record), _share_metrics(record)
    heads = [record.over, *(m.label if m.scale == 1 else with_unit(m.label, m.unit) for m in metrics)]
    heads += ["learned kept", "forgotten kept", ""] if shares else []
    first = ["0", *(f"base {_value(metric, record.base)}" for metric in metrics)]
    rows = [[*first, "0 %", "0 %", ""] if shares else first]
    for mark in record.marks:
        changes = [
            _change(metric.change(record.base, mark.point), metric.change_error(mark.point), metric)
            for metric in metrics
        ]
        kept = [_share(record, metric, mark) for metric in shares]
        knee = ["knee" if mark.at == record.knee else ""] if shares else []
        rows.append([f"{mark.at:g}", *changes, *kept, *knee])
    return heads, rows


def _share_metrics(record: Forgetting) -> list[Metric]:
    """Return the metrics of which shares are kept on the way; none of a training."""
    if record.over == "step" or record.learning is None or record.forgetting is None:
        return []
    return [record.learning, record.forgetting]


def _share(record: Forgetting, metric: Metric, mark: Mark) -> str:
    share = record.share_at(metric, mark)
    return NOTHING if share is None else f"{share:.0%}".replace("%", " %").replace("-", "−")


def _value(metric: Metric, point: Point) -> str:
    value = metric.of(point)
    return NOTHING if value is None else number(value * metric.scale, 4)


def _change(change: float | None, error: float | None, metric: Metric) -> str:
    if change is None:
        return NOTHING
    text = signed(change * metric.scale)
    return text if error is None else f"{text} ±{number(error * metric.scale, 2)}"


def _points(record: Forgetting, metric: Metric) -> list[tuple[float, float, float]]:
    """Return where a metric was measured, its change from the base, and the standard error of that."""
    found = [(0.0, 0.0, 0.0)]
    for mark in record.marks:
        change = metric.change(record.base, mark.point)
        if change is not None:
            error = metric.change_error(mark.point) or 0.0
            found.append((mark.at, change * metric.scale, error * metric.scale))
    return found


def _draw_course(record: Forgetting, metric: Metric) -> Callable[[Axes], None]:
    """Draw how a metric changes over the steps, or over the shares of the change."""

    def draw(axes: Axes) -> None:
        draw_way(axes, record, metric)
        axes.axhline(0, color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"base {_value(metric, record.base)}",
            (0.985, 0),
            xycoords=axes.get_yaxis_transform(),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
        mark_better(axes, "better ↓", 0.985, 0.02)
        axes.margins(y=0.15)
        axes.set_xlabel("step" if record.over == "step" else "share of the change")
        if record.over == "step":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(with_unit("change from the base", metric.unit))

    return draw


def draw_way(
    axes: Axes,
    record: Forgetting,
    metric: Metric,
    colour: str = _STYLE.colour,
    line: str | tuple[int, tuple[int, ...]] = "-",
) -> None:
    """Draw a metric's change from the base at every measurement, with standard errors, beginning with the base."""
    places, changes, errors = zip(*_points(record, metric), strict=True)
    axes.errorbar(
        places,
        changes,
        errors,
        color=colour,
        marker=_STYLE.marker,
        ms=4.5,
        lw=1.8,
        elinewidth=1,
        capsize=2,
        markeredgecolor=PAGE,
        markeredgewidth=0.5,
        ls=line,
        zorder=5,
    )


def _draw_path(record: Forgetting, learned: Metric, forgotten: Metric) -> Callable[[Axes], None]:
    """Draw the way from the base to the tuned model: what is forgotten against what is learned."""

    def draw(axes: Axes) -> None:
        ends = {0.0: record.base} | {mark.at: mark.point for mark in record.marks}
        known = []
        for at, point in ends.items():
            value, change = learned.of(point), forgotten.change(record.base, point)
            if value is not None and change is not None:
                error = forgotten.change_error(point) or 0.0
                known.append((at, value * learned.scale, change * forgotten.scale, error * forgotten.scale))
        shares, values, changes, errors = zip(*known, strict=True)
        axes.plot([values[0], values[-1]], [changes[0], changes[-1]], color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
        axes.errorbar(values, changes, errors, color=_STYLE.colour, marker=_STYLE.marker, ms=5, lw=1.8, capsize=2)
        for at, value, change in zip(shares, values, changes, strict=True):
            axes.annotate(f"{at:g}", (value, change), xytext=(5, -10), textcoords="offset points", fontsize=8)
            if at == record.knee:
                axes.plot(value, change, "o", ms=13, mfc="none", mec=_STYLE.colour, mew=1.5)
        if not learned.higher_is_better:
            axes.invert_xaxis()
        mark_better(axes, "better ↘", 0.985, 0.02)
        axes.margins(0.12)
        axes.set_xlabel(f"{with_unit(learned.label, learned.unit)}  (learned more →)")
        axes.set_ylabel(with_unit("forgotten", forgotten.unit))

    return draw


def _draw_loss(record: Forgetting) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        known: Sequence[tuple[int, float]] = [(e.step, e.loss) for e in record.training if e.loss is not None]
        axes.plot(*zip(*known, strict=True), color=_STYLE.colour, lw=1.6)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("training loss")

    return draw

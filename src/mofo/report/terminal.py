"""The end of training as a short table for the terminal."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from mofo.report.comparison import Comparison, Configuration
from mofo.report.formatting import joined, measured, plural, pooled, setting_value
from mofo.report.sequences import outcomes, quantities
from mofo.results import Metric

_GAP = 2  # characters between columns


@dataclass(frozen=True)
class _Column:
    head: str
    cells: list[str]

    @property
    def head_lines(self) -> list[str]:
        """The head with a line for each word."""
        return re.split(r" |(?<=-)", self.head)

    @property
    def width(self) -> int:
        """Characters that the column needs if no cell is broken."""
        return max(cell_len(text) for text in [*self.head_lines, *self.cells])

    @property
    def least_width(self) -> int:
        """Characters that the column needs if every word has a line of its own."""
        return max(cell_len(word) for text in [*self.head_lines, *self.cells] for word in text.split() or [""])


def summary_table(comparison: Comparison, width: int | None = None) -> Table:
    """Return a table with a row per configuration at the last step, seeds as mean ± standard deviation.

    No number is ever broken or cut off: columns that do not fit are left out, and the caption names them.

    Args:
        comparison: The comparison.
        width: Characters of a line; by default the terminal's, or 80 where there is none.
    """
    rows = [configuration for configuration in comparison.configurations if comparison.ends(configuration)]
    columns = _columns(comparison, rows)
    width = width or shutil.get_terminal_size().columns
    widths = [column.width for column in columns]
    if _fitting(widths, width) < len(columns):
        widths = [column.least_width for column in columns]
    shown = columns[: _fitting(widths, width)]
    if _fitting([columns[0].width, *widths[1:]], width) >= len(shown):
        widths[0] = columns[0].width  # names of methods on one line, where that costs no column
    table = Table(
        title=f"After step {comparison.last_step}",
        caption=_caption(comparison, rows, [column.head for column in columns], len(shown)),
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0, 0, _GAP - 1),  # the box has one character between columns
        pad_edge=False,
    )
    height = max(len(column.head_lines) for column in shown)
    for i, column in enumerate(shown):
        head = Text("\n".join([""] * (height - len(column.head_lines)) + column.head_lines))
        table.add_column(head, justify="right" if i else "left", width=widths[i])
    several = len(rows) > len(comparison.methods)
    for i, configuration in enumerate(rows):
        ends = several and i + 1 < len(rows) and rows[i + 1].method != configuration.method
        table.add_row(*(Text(column.cells[i]) for column in shown), end_section=ends)
    return table


def sequence_table(comparison: Comparison) -> Table | None:
    """Return a table of what each method knows after several tasks, and what it lost on the way; None for one task."""
    found = [(quantity, outcomes(comparison, quantity)) for quantity in quantities(comparison)]
    if not any(done for _, done in found):
        return None
    table = Table(
        title="One task after the other",
        caption="Overall: mean after the last task. Backward transfer: gain of earlier tasks since they were learned; "
        "negative is lost.",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("method")
    for quantity, _ in found:
        table.add_column(f"overall {quantity.label}", justify="right")
        table.add_column("backward transfer", justify="right")
    for method in comparison.methods:
        cells = []
        for _, done in found:
            own = next((outcome for outcome in done if outcome.method == method), None)
            cells += [pooled(own.pooled(lambda m: m.overall) if own else None)]
            cells += [pooled(own.pooled(lambda m: m.backward_transfer) if own else None)]
        table.add_row(comparison.label(method), *cells)
    return table


def legend(comparison: Comparison) -> list[str]:
    """Return a line for each probe: what it is, and what the base has."""
    lines = []
    for metric in comparison.probe_headlines:
        about = f": {metric.description}" if metric.description else ""
        base = comparison.base_text(metric)
        lines.append(f"{metric.label}{about}{f' (base {base})' if base else ''}")
    return lines


def _fitting(widths: list[int], width: int) -> int:
    """Return how many of the first columns fit into a line; at least one."""
    used = [sum(widths[: i + 1]) + _GAP * i for i in range(len(widths))]
    return max(1, sum(end <= width for end in used))


def _columns(comparison: Comparison, rows: list[Configuration]) -> list[_Column]:
    """Return all columns, the most important first."""
    columns = [_Column("method", [comparison.label(row.method) for row in rows])]
    for name in comparison.varied_settings:
        values = [setting_value(row.settings[name]) if name in row.settings else "" for row in rows]
        columns.append(_Column(comparison.results.settings[name].label, values))
    seeds = [len(comparison.ends(row)) for row in rows]
    if len(set(seeds)) > 1:
        columns.append(_Column("seeds", [str(count) for count in seeds]))
    others = [metric for metric in comparison.learned + comparison.distances if not metric.headline]
    headlines = [metric for metric in comparison.learned if metric.headline] + comparison.probe_headlines
    for metric in [*headlines, *comparison.distance_headlines, *others]:
        cells = [_breakable(measured(comparison.at_end(row, metric), metric)) for row in rows]
        if metric == comparison.learning:
            cells = [
                "diverged" if comparison.divergence_text(row) else cell for row, cell in zip(rows, cells, strict=True)
            ]
        columns.append(_Column(_head(metric), cells))
    times = [comparison.optimizer_seconds(row) for row in rows]
    if any(times):
        columns.append(_Column("optimizer s/step", [_breakable(pooled(time)) for time in times]))
    return columns


def _caption(comparison: Comparison, rows: list[Configuration], heads: list[str], shown: int) -> str:
    """Return what the numbers are, and which of the heads are not among the first `shown`."""
    seeds = {len(comparison.ends(row)) for row in rows}
    probes = [_head(metric) for metric in comparison.probe_headlines if _head(metric) in heads[:shown]]
    sentences = [
        f"{plural(max(seeds), 'seed')} each." if len(seeds) == 1 else "",
        f"Equal in all runs: {comparison.fixed_settings}." if comparison.fixed_settings else "",
        f"{joined(probes)}: change from the base, positive is worse." if probes else "",
        f"No room for {joined(heads[shown:])}: see the page, or --json." if heads[shown:] else "",
    ]
    return " ".join(filter(None, sentences))


def _head(metric: Metric) -> str:
    """Return a metric's head, with its unit where that is not the one of the file."""
    return metric.label if metric.scale == 1 else f"{metric.label} {metric.unit}"


def _breakable(amount: str) -> str:
    """Return mean ± standard deviation so that a line can break before the deviation alone."""
    return amount.replace("± ", "±")

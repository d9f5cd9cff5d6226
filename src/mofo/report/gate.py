"""What a tuned model was held to, for other programs and for the page."""

from __future__ import annotations

import csv
import io

from mofo.pair import Finding, GateResults, Holds
from mofo.report.formatting import NOTHING, markdown_table, signed
from mofo.report.pair import pair_markdown
from mofo.report.section import Cell, Group, Row, Section, Table
from mofo.report.styles import Style
from mofo.results import Metric

WORDS: dict[Holds, str] = {"kept": "kept", "broken": "broken", "unsure": "too little evidence"}
"""What is said of a bound."""

STYLES: dict[Holds, Style] = {
    "kept": Style("#009E73", "o", "-", "✔"),
    "broken": Style("#D55E00", "X", "-", "✖"),
    "unsure": Style("#888888", "D", "-", "◆"),
}
"""How the outcome of a bound looks."""

_HEADS = (
    *("bound", "outcome", "metric", "base", "tuned", "change", "low", "high"),
    *("units", "lost", "won", "p"),
)


def gate_csv(gate: GateResults) -> str:
    """Return a row for each bound with what it rests on, as comma-separated values with every digit.

    `change`, `low` and `high`, the ends of its 95 % interval, are tuned minus base as the bound has them: in the
    direction of the metric, and shares between 0 and 1. What was not measured is empty.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_HEADS)
    base, tuned = gate.results.base.point, gate.results.tuned.point
    for finding in gate.findings:
        metric = _metric(finding, gate)
        paired = metric.paired(tuned)
        counts = [paired.units, paired.lost, paired.won, paired.p] if paired else [None] * 4
        numbers = [metric.of(base), metric.of(tuned), finding.change, finding.low, finding.high]
        rows.writerow([finding.bound, WORDS[finding.outcome], finding.metric, *numbers, *counts])
    return text.getvalue()


def gate_markdown(gate: GateResults) -> str:
    """Return the verdict, a row for each bound as a Markdown table, and all that was measured under it."""
    lines = [["bound", "metric", "change", "95 % interval", "outcome"], ["---", "---", "---:", "---:", "---"]]
    lines += [[finding.bound, finding.metric, *_texts(finding), WORDS[finding.outcome]] for finding in gate.findings]
    table = markdown_table(lines)
    return f"{gate.sentence}\n\n{table}\nAll that was measured:\n\n{pair_markdown(gate.results)}"


def bounds_section(gate: GateResults) -> Section:
    """Return a row for each bound."""
    rows = [
        Row(
            Cell(finding.bound, finding.metric),
            STYLES[finding.outcome],
            [Cell(text) for text in (*_texts(finding), WORDS[finding.outcome])],
        )
        for finding in gate.findings
    ]
    return Section(
        "Bounds",
        table=Table("bound", [Cell("change"), Cell("95 % interval"), Cell("outcome")], [Group(rows)]),
        caption="Here the change is tuned minus base in the direction of the number itself, as in the bound: an "
        "accuracy that falls has a minus, and shares are between 0 and 1. A bound is kept if the whole interval keeps "
        "it, broken if none of it does; else there is too little evidence.",
    )


def _texts(finding: Finding) -> tuple[str, str]:
    """Return the change and its interval."""
    known = finding.low is not None and finding.high is not None
    return signed(finding.change), f"{signed(finding.low)} to {signed(finding.high)}" if known else NOTHING


def _metric(finding: Finding, gate: GateResults) -> Metric:
    return next(metric for metric in gate.results.metrics if metric.label == finding.metric)

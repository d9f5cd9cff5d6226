"""Configurations at the end of training: the table."""

from __future__ import annotations

from mofo.report.comparison import Comparison
from mofo.report.formatting import measured
from mofo.report.section import Cell, Group, Section, Table, configuration_row


def section(comparison: Comparison) -> Section | None:
    """Return a row per configuration: what it had learned and forgotten, and how far it was, at the last step."""
    parts = {"learned": comparison.learned, "forgotten": comparison.forgotten, "distance": comparison.distances}
    metrics = [metric for part in parts.values() for metric in part]
    rows = [
        configuration_row(
            comparison, c, len(ends), [measured(comparison.at_end(c, metric), metric) for metric in metrics]
        )
        for c in comparison.configurations
        if (ends := comparison.ends(c))
    ]
    if not rows:
        return None
    same = comparison.fixed_settings
    return Section(
        "At equal steps",
        table=Table(
            f"after step {comparison.last_step}",
            [Cell(metric.label, metric.unit) for metric in metrics],
            [Group(rows)],
            spans=[(title, len(part)) for title, part in parts.items() if part],
        ),
        caption=f"The same in all runs that have it: {same}." if same else "",
    )

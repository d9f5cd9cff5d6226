"""Time and memory."""

from __future__ import annotations

from mofo.report.comparison import Comparison, Configuration
from mofo.report.formatting import NOTHING, joined, number, pooled
from mofo.report.section import Cell, Group, Section, Table, configuration_row
from mofo.report.spread import pool_known

_TIMES = {
    "optimizer": "s per step",
    "optimizer's share": "% of training",
    "training": "s",
    "measuring": "s",
    "total": "s",
}
_MEMORY = {"peak memory": "GB"}


def section(comparison: Comparison) -> Section | None:
    """Return a row per configuration, with a column for each cost that was recorded."""
    costs = [(configuration, _costs(comparison, configuration)) for configuration in comparison.configurations]
    recorded = {head for _, found in costs for head in found}
    heads = {head: unit for head, unit in (_TIMES | _MEMORY).items() if head in recorded}
    if not heads:
        return None
    rows = [
        configuration_row(
            comparison, configuration, len(configuration.runs), [found.get(head, NOTHING) for head in heads]
        )
        for configuration, found in costs
    ]
    parts = [name for name, part in (("time", _TIMES), ("memory", _MEMORY)) if recorded & part.keys()]
    return Section(
        joined(parts).capitalize(),
        table=Table("configuration", [Cell(head, unit) for head, unit in heads.items()], [Group(rows)]),
    )


def _costs(comparison: Comparison, configuration: Configuration) -> dict[str, str]:
    """Return the costs of a configuration that were recorded; memory is the most that any of its runs held."""
    times = [run.seconds for run in configuration.runs if run.seconds]
    amounts = {
        "optimizer": comparison.optimizer_seconds(configuration),
        "optimizer's share": pool_known([_percentage(time.optimizer, time.training) for time in times]),
        "training": pool_known([time.training for time in times]),
        "measuring": pool_known([time.measuring for time in times]),
        "total": pool_known([time.total for time in times]),
    }
    found = {head: pooled(amount) for head, amount in amounts.items() if amount is not None}
    peaks = [run.peak_memory_bytes for run in configuration.runs if run.peak_memory_bytes is not None]
    return found | ({"peak memory": number(max(peaks) / 1e9)} if peaks else {})


def _percentage(part: float | None, whole: float | None) -> float | None:
    return 100 * part / whole if part is not None and whole else None

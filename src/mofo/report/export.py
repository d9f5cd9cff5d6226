"""Results as a table for other programs: a row for each configuration at the end of training."""

from __future__ import annotations

import csv
import io

from mofo.report.comparison import Comparison, Configuration
from mofo.report.formatting import joined, markdown_table, measured, setting_value
from mofo.report.spread import Pooled
from mofo.results import Metric


def to_csv(comparison: Comparison) -> str:
    """Return comma-separated values with every digit; what was not measured is empty.

    What is learned stands as it is, all else as its change from the base, in the unit that it is shown in: positive is
    worse. Each metric has its mean over seeds, its standard deviation, and the standard error of its measurement.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    settings = list(comparison.results.settings)
    heads = [f"{metric.label}{suffix}" for metric in comparison.metrics for suffix in ("", " std", " error")]
    rows.writerow(["method", *settings, "seeds", "step", "diverged", *heads])
    for configuration in comparison.configurations:
        numbers = [cell for metric in comparison.metrics for cell in _numbers(comparison.at_end(configuration, metric))]
        rows.writerow(
            [
                configuration.method,
                *(configuration.settings.get(name, "") for name in settings),
                len(configuration.runs),
                configuration.runs[0].points[-1].step,
                comparison.divergence_text(configuration),
                *numbers,
            ]
        )
    return text.getvalue()


def to_markdown(comparison: Comparison) -> str:
    """Return a Markdown table with rounded numbers, mean ± standard deviation over seeds."""
    metrics = comparison.metrics
    heads = ["method", "settings", "seeds", *map(_head, metrics)]
    base = ["base", "", "", *(comparison.base_text(m) if m.kind == "learned" else "" for m in metrics)]
    rows = [base, *(_cells(comparison, configuration, metrics) for configuration in comparison.configurations)]
    lines = [heads, ["---"] * 3 + ["---:"] * len(metrics), *rows]
    changes = joined([metric.label for metric in comparison.forgotten])
    note = f"\n{changes}: change from the base, positive is worse.\n" if changes else ""
    return markdown_table(lines) + note


def _numbers(amount: Pooled | None) -> list[float | None]:
    return [None, None, None] if amount is None else [amount.mean, amount.std, amount.error]


def _cells(comparison: Comparison, configuration: Configuration, metrics: list[Metric]) -> list[str]:
    values = configuration.settings.items()
    settings = ", ".join(f"{comparison.results.settings[name].label} {setting_value(value)}" for name, value in values)
    diverged = comparison.divergence_text(configuration)
    return [
        comparison.label(configuration.method),
        f"{settings} ({diverged})" if diverged else settings,
        str(len(configuration.runs)),
        *(measured(comparison.at_end(configuration, metric), metric) for metric in metrics),
    ]


def _head(metric: Metric) -> str:
    return f"{metric.label}, {metric.unit}" if metric.unit else metric.label

"""How to read the page: what was measured, what the base has, and the terms."""

from __future__ import annotations

from mofo.report.comparison import Comparison
from mofo.report.section import Section
from mofo.results import Metric


def section(comparison: Comparison) -> Section:
    """Return the meaning of the page's metrics and terms."""
    learning = comparison.learning
    return Section(
        "How to read this",
        terms={metric.label: _about(comparison, metric) for metric in [learning, *comparison.forgotten]}
        | {
            "forgotten": "The change of a probe from the base, with the sign that makes worse positive. Negative "
            "amounts are gains. A change within two standard errors of the probe, or within the spread over seeds, is "
            "noise.",
            "distance": "How far the weights are from those of the base.",
            "equal learning": "A model that has learned less has usually forgotten less, so methods are compared where "
            f"each first reached the same {learning.label}.",
        },
    )


def _about(comparison: Comparison, metric: Metric) -> str:
    """Return what a metric is, in which unit, which way is better, and what the base has."""
    about = metric.description[:1].upper() + metric.description[1:]
    unit = f"in {metric.unit}" if metric.unit else ""
    better = f"{'higher' if metric.higher_is_better else 'lower'} is better"
    base = comparison.base_text(metric)
    facts = ", ".join(filter(None, [unit, better]))
    return (
        f"{f'{about}; {facts}' if about else facts[:1].upper() + facts[1:]}.{f' The base has {base}.' if base else ''}"
    )

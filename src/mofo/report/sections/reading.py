"""How to read the page."""

from __future__ import annotations

from mofo.report.comparison import Comparison
from mofo.report.section import Section


def section(comparison: Comparison) -> Section:
    """Return the meaning of the page's terms."""
    learning = comparison.learning
    unit = f" in {learning.unit}" if learning.unit else ""
    return Section(
        "How to read this",
        terms={
            "learned": f"The {learning.label}{unit}; lower is better. The base has "
            f"{comparison.loss_text(comparison.base_loss)}.",
            "forgotten": "How much worse the tuned model is than the base on everything else, by the probes. Negative "
            "amounts mean that it got better.",
            "distance": "How far the weights are from those of the base.",
            "equal learning": "A model that has learned less has usually forgotten less, so methods are compared where "
            f"each first reached the same {learning.label}.",
        },
    )

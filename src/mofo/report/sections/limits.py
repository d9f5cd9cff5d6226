"""What the reader should not conclude."""

from __future__ import annotations

from mofo.report.comparison import Comparison
from mofo.report.formatting import joined, plural, span
from mofo.report.section import Section


def section(comparison: Comparison) -> Section | None:
    """Return what limits the conclusions, from what these results are."""
    if not comparison.runs:
        return None
    return Section(
        "Limits",
        items=[
            *_seeds(comparison),
            *_choice(comparison),
            *_regime(comparison),
            *_rows(comparison),
            *_broken(comparison),
        ],
    )


def _seeds(comparison: Comparison) -> list[str]:
    counts = [len(configuration.runs) for configuration in comparison.configurations]
    if max(counts) == 1:
        return [
            "One seed per configuration: nothing shows which differences are chance. Repeat with at least three seeds."
        ]
    seeds = f"{span(counts)} seeds per configuration: ± is their standard deviation"
    alone = " (none with one seed)" if min(counts) == 1 else ""
    return [f"{seeds}{alone}. Where the ranges overlap, no difference is claimed."]


def _choice(comparison: Comparison) -> list[str]:
    counts = {method: len(comparison.of_method(method)) for method in comparison.methods}
    if len(set(counts.values())) < 2:
        return []
    tried = [f"{comparison.label(method)} {count}" for method, count in counts.items()]
    return [
        "Choosing the best of several configurations after the fact favours methods with more of them "
        f"({', '.join(tried)})."
    ]


def _regime(comparison: Comparison) -> list[str]:
    tokens = max((run.points[-1].tokens or 0 for run in comparison.runs), default=0)
    length = plural(comparison.last_step, "step") + (f" (at most {tokens:,} tokens)" if tokens else "")
    tasks = "one task" if len(comparison.results.tasks) == 1 else f"{len(comparison.results.tasks)} tasks"
    return [
        f"Each run had {length} on one model and {tasks}. Longer training, other models and other data may rank the "
        "methods differently.",
        "Between checkpoints, amounts are read off a straight line; more checkpoints make them more exact.",
    ]


def _rows(comparison: Comparison) -> list[str]:
    plan = comparison.results.plan
    counts = [f"{count:,} {reason}" for reason, count in plan.rows.items()] if plan else []
    return [f"Not all rows were used as they are: {'; '.join(counts)}."] if counts else []


def _broken(comparison: Comparison) -> list[str]:
    broken = [run.name for run in comparison.runs if any(comparison.loss(point) is None for point in run.points)]
    where = f"Left out where the {comparison.learning.label} was not a finite number"
    return [f"{where}: {joined(broken)}."] if broken else []

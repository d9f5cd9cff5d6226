"""Answers to be read: the base's and every method's, side by side."""

from __future__ import annotations

from mofo.report.comparison import Comparison
from mofo.report.section import Conversation, Section, Written
from mofo.results import Run


def section(comparison: Comparison) -> Section | None:
    """Return each prompt with the answers of the base and of the best run of each method; None without samples."""
    best = [run for method in comparison.methods if (run := _best(comparison, method)) is not None]
    samples = comparison.results.samples
    if not samples:
        return None
    conversations = []
    for i, sample in enumerate(samples):
        answers = [Written("base", sample.answer)]
        answers += [Written(_name(comparison, run), run.samples[i], comparison.styles[run.method]) for run in best]
        conversations.append(Conversation(sample.prompt, sample.expected or "", answers))
    return Section(
        "Answers",
        conversations=conversations,
        caption="Written greedily and cut where an answer does not end; of each method by the run with the "
        f"{comparison.lowest} {comparison.learning.label} at its end. A few answers show what kind of model it is, not "
        "which is better.",
    )


def _best(comparison: Comparison, method: str) -> Run | None:
    """Return the run of a method that ended with the lowest loss, of those that answered the samples."""
    ends: list[tuple[float, Run]] = []
    for configuration in comparison.of_method(method):
        runs = [run for run in configuration.runs if len(run.samples) == len(comparison.results.samples)]
        losses = [(comparison.loss(run.points[-1]), run) for run in runs]
        ends += [(loss, run) for loss, run in losses if loss is not None and comparison.diverged_at(run) is None]
    return min(ends, key=lambda end: end[0])[1] if ends else None


def _name(comparison: Comparison, run: Run) -> str:
    configuration = next(c for c in comparison.of_method(run.method) if run in c.runs)
    return comparison.describe(configuration)

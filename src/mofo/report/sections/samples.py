"""Answers to be read: the base's and every method's, side by side."""

from __future__ import annotations

from mofo.report.comparison import Comparison
from mofo.report.section import Conversation, Section, Written


def section(comparison: Comparison) -> Section | None:
    """Return each prompt with the answers of the base and of the best run of each method; None without samples."""
    samples = comparison.results.samples
    best = [
        run
        for method in comparison.methods
        if (run := comparison.best_run(method, lambda run: len(run.samples) == len(samples))) is not None
    ]
    if not samples:
        return None
    conversations = []
    for i, sample in enumerate(samples):
        answers = [Written("base", sample.answer)]
        answers += [
            Written(comparison.describe_run(run), run.samples[i], comparison.styles[run.method]) for run in best
        ]
        conversations.append(Conversation(sample.prompt, sample.expected or "", answers))
    return Section(
        "Answers",
        conversations=conversations,
        caption="Written greedily and cut where an answer does not end; of each method by the run with the "
        f"{comparison.lowest} {comparison.learning.label} at its end. A few answers show what kind of model it is, not "
        "which is better.",
    )

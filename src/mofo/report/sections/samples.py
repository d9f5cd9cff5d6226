"""Answers to be read: the base's and every method's, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

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
    shared = _common_start([sample.prompt for sample in samples])
    conversations = []
    for i, sample in enumerate(samples):
        answers = [Written("base", sample.answer)]
        answers += [
            Written(comparison.describe_run(run), run.samples[i], comparison.styles[run.method]) for run in best
        ]
        conversations.append(Conversation(sample.prompt[shared:], sample.prompt, sample.expected or "", answers))
    return Section(
        "Answers",
        conversations=conversations,
        caption="Written greedily and cut where an answer does not end; of each method by the run with the "
        f"{comparison.lowest} {comparison.learning.label} at its end. A few answers show what kind of model it is, not "
        "which is better.",
    )


def _common_start(prompts: Sequence[str]) -> int:
    """Return how many letters all of several prompts begin with alike, such as a chat template's."""
    if len(prompts) < 2:
        return 0
    return sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*prompts, strict=False)))

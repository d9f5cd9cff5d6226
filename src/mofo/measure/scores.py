"""How a generated answer is judged against the reference: a number in [0, 1] for each metric that a task may have."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from mofo.measure.generation import is_correct
from mofo.results import ScoreName

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


class Score(NamedTuple):
    """A way to judge an answer.

    Attributes:
        key: Name of the number in `results.json`.
        label: What readers call it.
        description: What it is, in one line.
        judge: Returns the score of a generated text against the reference.
    """

    key: str
    label: str
    description: str
    judge: Callable[[str, str], float]


def choice(generated: str, reference: str) -> float:
    """Return 1 where both texts begin with the same word, such as the letter of a choice; else 0.

    What follows the choice, as reasons do in ScienceQA, does not count.
    """
    first = re.search(r"\w+", generated)
    expected = re.search(r"\w+", reference)
    return float(first is not None and expected is not None and first[0].casefold() == expected[0].casefold())


def rouge_l(generated: str, reference: str) -> float:
    """Return the F-measure of the longest common subsequence of words (Lin, 2004), as `rouge-score` computes it."""
    return float(_rouge().score(reference, generated)["rougeL"].fmeasure)


def edit_similarity(generated: str, reference: str) -> float:
    """Return 1 − (insertions and deletions from one text to the other) / (characters of both), as `rapidfuzz` does.

    White space around the texts does not count. CodeXGLUE, from which TRACE has Py150, judges a line of code by it.
    """
    from rapidfuzz import fuzz

    return fuzz.ratio(generated.strip(), reference.strip()) / 100


SCORES: dict[ScoreName, Score] = {
    "accuracy": Score(
        "accuracy", "accuracy", "share of held-out problems whose generated answer is exactly right", is_correct
    ),
    "choice": Score(
        "accuracy", "accuracy", "share of held-out problems whose generated answer begins with the right choice", choice
    ),
    "rouge-l": Score("rouge_l", "ROUGE-L", "mean ROUGE-L of the generated answers to held-out problems", rouge_l),
    "edit-similarity": Score(
        "edit_similarity",
        "edit similarity",
        "mean edit similarity of the generated answers to held-out problems",
        edit_similarity,
    ),
}
"""Every metric of a task. A score is independent of all others, so that its mean has a standard error."""


@cache
def _rouge() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk, which takes a second

    return RougeScorer(["rougeL"])

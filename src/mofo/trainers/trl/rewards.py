"""Rewards that can be checked, for `mofo grpo --reward_funcs`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mofo.measure.generation import final_answer, normalise

MARKED = (re.compile(r"<answer>(.*?)</answer>", re.DOTALL), re.compile(r"\\boxed\{([^{}]*)\}"))
"""How models mark an answer, beside a line that begins with `####`."""

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def solved(completions: Sequence[Any], **columns: Any) -> list[float]:
    r"""Return 1 for each completion that reaches its row's answer, and 0 for each other.

    An answer is what stands after the last `####`, in `<answer>` or in `\boxed{}`; of a text without any of them, its
    last number where the row's answer is a number, and the whole text otherwise. Generated problems are scored by
    reasoning-gym, which may give a part of 1 and knows where several answers are right.

    Args:
        completions: Texts, or lists with the assistant's message.
        columns: The other columns of the rows: `answer`, and of generated problems `entry`.
    """
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    entries = columns.get("entry")
    if entries is not None:
        return [_score(text, entry) for text, entry in zip(texts, entries, strict=True)]
    answers = [final_answer(str(answer)) for answer in columns["answer"]]
    return [
        float(normalise(given(text, answer)) == normalise(answer)) for text, answer in zip(texts, answers, strict=True)
    ]


def given(text: str, expected: str) -> str:
    """Return the answer that a text gives to a question whose answer is known."""
    if "####" in text:
        return final_answer(text)
    marked = [found for pattern in MARKED for found in pattern.findall(text)]
    if marked:
        return str(marked[-1])
    numbers = NUMBER.findall(text) if NUMBER.fullmatch(expected.strip()) else []
    return str(numbers[-1]) if numbers else text


def _score(text: str, entry: dict[str, Any]) -> float:
    import reasoning_gym

    score = reasoning_gym.get_score_answer_fn(entry["metadata"]["source_dataset"])
    return float(score(given(text, entry["answer"]), entry))

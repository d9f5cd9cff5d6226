"""Rows as tokens, with labels where the loss counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from mofo.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mofo.data.rows import Row

IGNORED = -100
"""Label of a token that does not count, as everywhere in torch and transformers."""

Messages = list[dict[str, Any]]
"""Turns of a conversation, each with `role` and `content`."""


class Labelled(TypedDict):
    """A tokenised text: `labels` is as long as `input_ids`, and `IGNORED` where a token does not count."""

    input_ids: list[int]
    labels: list[int]


class Problem(TypedDict):
    """A tokenised prompt, and the reference answer as text."""

    prompt_ids: list[int]
    answer: str


class Example(Labelled, Problem):
    """A row as tokens: to be trained on, and to be answered."""


def encode(row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Example:
    """Return a row as tokens; the loss counts on the completion alone if there is one.

    Prompt and completion are tokenised separately, so that training sees the very prompt that generation starts from.
    What a chat template adds after the end-of-sequence token is cut off.

    Args:
        row: A row of one of the forms of `mofo.data.rows.load_rows`.
        tokenizer: The tokenizer. Its chat template, if it has one, formats messages, questions and answers.
        max_length: Tokens to which the row is truncated.

    Returns:
        The tokens. `answer` is the text that the completion should be, empty for a row of plain text.

    Raises:
        UserError: The chat template changes the prompt where a completion follows it.
    """
    prompt, completion, templated = _texts(row, tokenizer)
    prompt_ids = tokenizer(prompt, add_special_tokens=not templated)["input_ids"] if prompt else []
    completion_ids = tokenizer(completion, add_special_tokens=not prompt)["input_ids"]
    if tokenizer.eos_token_id in completion_ids:
        last = len(completion_ids) - completion_ids[::-1].index(tokenizer.eos_token_id)
        completion_ids = completion_ids[:last]
    else:
        completion_ids = [*completion_ids, tokenizer.eos_token_id]
    return {
        "input_ids": (prompt_ids + completion_ids)[:max_length],
        "labels": ([IGNORED] * len(prompt_ids) + completion_ids)[:max_length],
        "prompt_ids": prompt_ids,
        "answer": _answer(row),
    }


def has_labels(example: Labelled) -> bool:
    """Return whether any token counts; none does if truncation left nothing of the completion."""
    return any(label != IGNORED for label in example["labels"])


def _texts(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str, bool]:
    """Return the prompt, the completion, and whether a chat template made them, special tokens included."""
    if "text" in row:
        return "", row["text"], False
    prompt, completion = _prompt_and_completion(row, has_template=tokenizer.chat_template is not None)
    if isinstance(prompt, str) and isinstance(completion, str):
        return prompt, completion, False
    assert not isinstance(prompt, str)
    assert not isinstance(completion, str)
    before = str(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
    whole = str(tokenizer.apply_chat_template(prompt + completion, tokenize=False))
    if not whole.startswith(before):
        raise UserError(
            "The model's chat template does not put the prompt before the completion unchanged, so the loss cannot be "
            "kept to the completion: give the data as text, or as prompt and completion texts."
        )
    return before, whole[len(before) :], True


def _prompt_and_completion(row: Row, *, has_template: bool) -> tuple[str | Messages, str | Messages]:
    """Return both as texts or both as messages; questions and answers become messages where there is a template."""
    if "messages" in row:
        return row["messages"][:-1], row["messages"][-1:]
    if "prompt" in row:
        return row["prompt"], row["completion"]
    if has_template:
        return [{"role": "user", "content": row["question"]}], [{"role": "assistant", "content": row["answer"]}]
    return f"Question: {row['question']}\nAnswer:", f" {row['answer']}"


def _answer(row: Row) -> str:
    """Return the text that the completion should be, for exact-match accuracy; empty where there is no completion."""
    if "text" in row:
        return ""
    _, completion = _prompt_and_completion(row, has_template=True)
    return completion if isinstance(completion, str) else str(completion[-1]["content"])

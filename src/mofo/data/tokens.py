"""Rows as tokens, with labels where the loss counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict, cast

from mofo.data.conversation import Turns, closed, encode_conversation, token_ids
from mofo.data.forms import Messages, Row, Turn
from mofo.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token that does not count, as everywhere in torch and transformers."""

WHOLE = 2**62
"""A `max_length` that cuts nothing."""


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


def encode(row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int, *, turns: Turns = "all") -> Example:
    """Return a row as tokens; the loss counts on the completion alone if there is one.

    In a conversation it counts on what the assistant says and on the end of each of its turns: as the chat template
    marks it (`{% generation %}`), or else from where a turn would be generated to the end-of-sequence token after it.
    These stretches are tokenised separately, so that training sees the very prompt that generation starts from. What
    a template adds after the last end-of-sequence token is cut off.

    Args:
        row: A row of one of the forms of `mofo.data.rows.load_rows`.
        tokenizer: The tokenizer. Its chat template, if it has one, formats messages, questions and answers.
        max_length: Tokens to which the row is truncated.
        turns: Whether all turns of the assistant are learned, or the last alone.

    Returns:
        The tokens. `prompt_ids` is what precedes the last completion. `answer` is the text that this completion
        should be; both are empty for a row of plain text.

    Raises:
        UserError: The tokenizer cannot format the row so that the loss can be kept to what is learned.
    """
    if "text" in row:
        whole = closed(_opened(row["text"], tokenizer), tokenizer)
        return _example(whole, whole, [], "", max_length)
    conversation = _conversation(row, has_template=tokenizer.chat_template is not None)
    if conversation is None:
        prompt, completion = _plain_texts(row)
        prompt_ids = _opened(prompt, tokenizer, goes_on=True)
        learned = closed(token_ids(completion, tokenizer), tokenizer)
        ids, labels = prompt_ids + learned, [IGNORED] * len(prompt_ids) + learned
        return _example(ids, labels, prompt_ids, completion if "prompt" in row else row["answer"], max_length)
    messages, first = conversation
    stretches = encode_conversation(row, messages, first, tokenizer, turns)
    ids, labels, prompt_ids = [], [], []
    for tokens, is_learned in stretches:
        prompt_ids, ids = ids, ids + tokens
        labels = labels + (tokens if is_learned else [IGNORED] * len(tokens))
    return _example(ids, labels, prompt_ids, _answer(messages[-1], stretches[-1].ids, tokenizer), max_length)


def encode_rows(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    turns: Turns = "all",
    place: Callable[[Row], str],
) -> list[Example]:
    """Return rows as tokens; one that cannot be made into tokens is named.

    Args:
        rows: The rows.
        tokenizer: The tokenizer.
        max_length: Tokens to which each row is truncated.
        turns: As for `encode`.
        place: Says where a row comes from: `data.jsonl, row 3`.

    Raises:
        UserError: A row cannot be made into tokens.
    """
    examples = []
    for row in rows:
        try:
            examples.append(encode(row, tokenizer, max_length, turns=turns))
        except UserError as error:
            raise UserError(f"{place(row)}: {error}") from error
        except Exception as error:  # templates are programs of others, and tokenizers raise many kinds
            raise UserError(f"{place(row)} cannot be made into tokens: {first_line(error)}.") from error
    return examples


def find_row(sources: Mapping[str, Sequence[Row]]) -> Callable[[Row], str]:
    """Return a function that says where a row comes from, given the rows of each source in order."""

    def place(row: Row) -> str:
        for source, rows in sources.items():
            if row in rows:
                return f"{source}, row {rows.index(row) + 1}"
        raise ValueError("the row is of none of these sources")

    return place


def has_labels(example: Labelled) -> bool:
    """Return whether any token counts; none does if truncation left nothing of the completion."""
    return any(label != IGNORED for label in example["labels"])


def _example(ids: list[int], labels: list[int], prompt_ids: list[int], answer: str, max_length: int) -> Example:
    return {
        "input_ids": ids[:max_length],
        "labels": labels[:max_length],
        "prompt_ids": prompt_ids,
        "answer": answer,
    }


def _conversation(row: Row, *, has_template: bool) -> tuple[Messages, int] | None:
    """Return the messages and the index of the first that may be learned; None for plain texts."""
    if "messages" in row:
        messages, first = row["messages"], 0
    elif "prompt" in row:
        if isinstance(row["prompt"], str):
            return None
        messages, first = row["prompt"] + row["completion"], len(row["prompt"])
    elif has_template:
        messages, first = _as_chat(row), 1
    else:
        return None
    if not has_template:
        raise UserError(
            "the tokenizer has no chat template, which a conversation needs: take a model that has one, or give prompt "
            "and completion as texts."
        )
    return messages, first


def _as_chat(row: Row) -> Messages:
    return [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]


def _plain_texts(row: Row) -> tuple[str, str]:
    if "prompt" in row:
        return row["prompt"], row["completion"]
    return f"Question: {row['question']}\nAnswer:", f" {row['answer']}"


def _opened(text: str, tokenizer: PreTrainedTokenizerBase, *, goes_on: bool = False) -> list[int]:
    """Return the tokens of a text after what the tokenizer puts before one, unless the text has that already.

    What the tokenizer puts behind a text is left out where the text goes on, as a prompt does.
    """
    ids = token_ids(text, tokenizer)
    whole = cast("list[int]", tokenizer(text, verbose=False)["input_ids"])
    start = next((i for i in range(len(whole) - len(ids) + 1) if whole[i : i + len(ids)] == ids), None)
    if start is None:
        return whole
    before, after = whole[:start], whole[start + len(ids) :] if not goes_on else []
    doubled_before = bool(before) and ids[: len(before)] == before
    doubled_after = bool(after) and ids[-len(after) :] == after
    return ([] if doubled_before else before) + ids + ([] if doubled_after else after)


def _answer(turn: Turn, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what a turn says; as the template writes it where that is the call of a tool."""
    if turn["content"] is not None:
        return str(turn["content"])
    return str(tokenizer.decode(ids)).removesuffix(tokenizer.eos_token or "").strip()

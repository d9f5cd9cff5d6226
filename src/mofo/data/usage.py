"""What becomes of rows: how many are used, which are cut, and which are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mofo.data.tokens import IGNORED, Example, Labelled
from mofo.errors import UserError


@dataclass(frozen=True)
class Usage:
    """What `max_length` does to rows.

    Attributes:
        rows: Number of rows.
        cut: Rows that lose tokens at the end, and keep some that are learned.
        left_out: Rows that keep no token that is learned.
        longest: Tokens of the longest row after it was cut.
    """

    rows: int
    cut: int
    left_out: int
    longest: int

    @property
    def usable(self) -> int:
        """Rows that something is learned from."""
        return self.rows - self.left_out

    def by_reason(self, kind: str) -> dict[str, int]:
        """Return the number of rows that are not used as they are, by reason.

        Args:
            kind: What the rows are for: `training`.
        """
        counts = {
            f"{kind} rows cut at max_length": self.cut,
            f"{kind} rows left out, as nothing to be learned is within max_length": self.left_out,
        }
        return {reason: count for reason, count in counts.items() if count}


def usage(examples: Sequence[Labelled], max_length: int) -> Usage:
    """Return what a length does to rows.

    Args:
        examples: The rows, of which nothing is cut off yet.
        max_length: Tokens to which they will be cut.
    """
    longer = [example for example in examples if len(example["input_ids"]) > max_length]
    lost = sum(all(label == IGNORED for label in example["labels"][:max_length]) for example in examples)
    lost_by_length = sum(all(label == IGNORED for label in example["labels"][:max_length]) for example in longer)
    longest = max((len(example["input_ids"]) for example in examples), default=0)
    return Usage(len(examples), len(longer) - lost_by_length, lost, min(longest, max_length))


def truncated(example: Example, max_length: int) -> Example:
    """Return a row cut to `max_length` tokens."""
    ids, labels = example["input_ids"][:max_length], example["labels"][:max_length]
    return {**example, "input_ids": ids, "labels": labels}


def check_positions(longest: int, positions: int | None, model: str) -> None:
    """Refuse rows that are longer than what a model can take.

    Args:
        longest: Tokens of the longest row, after it was cut.
        positions: The most that the model takes; None if it has no limit.
        model: The model's name, for the message.

    Raises:
        UserError: They are longer.
    """
    if positions is not None and longest > positions:
        raise UserError(
            f"The longest row has {longest} tokens, and {model} takes at most {positions}: "
            f"give --max-length {positions}."
        )


def check_tokens(examples: Sequence[Labelled], tokens: int | None, model: str) -> None:
    """Refuse rows with tokens that a model does not know, as of a tokenizer that was given more than the model.

    Args:
        examples: The rows.
        tokens: How many the model knows; None if that is not known.
        model: The model's name, for the message.

    Raises:
        UserError: A row has such a token.
    """
    largest = max((max(example["input_ids"], default=0) for example in examples), default=0)
    if tokens is not None and largest >= tokens:
        raise UserError(
            f"The rows have a token {largest}, and {model} knows {tokens}, from 0 on: its tokenizer is larger than its "
            "vocabulary; resize the model's token embeddings, or take the tokenizer that it was trained with."
        )

"""Held-out rows of a task, read for models that share a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mofo.data.conversation import Turns
from mofo.data.rows import load_rows
from mofo.data.tokens import WHOLE, Example, encode_rows, find_row, has_labels
from mofo.data.usage import check_positions, check_tokens, truncated, usage
from mofo.errors import UserError
from mofo.models.limits import folder_positions, folder_tokens
from mofo.models.load import load_tokenizer, local_folder


class HeldOut(NamedTuple):
    """Rows to measure a task's loss on, and how many were not used as they are, by reason."""

    examples: list[Example]
    reasons: dict[str, int]


def read_held_out(
    data: str,
    base: str,
    *,
    rows: int,
    max_length: int,
    columns: Mapping[str, str] | None = None,
    turns: Turns = "all",
    trust_remote_code: bool = False,
) -> HeldOut:
    """Return held-out rows as the base's tokenizer reads them.

    Args:
        data: The rows, as for `mofo.data.rows.load_rows`.
        base: The model, as for `mofo.models.load.load_model`; its weights are not read.
        rows: The most rows.
        max_length: Tokens to which rows are truncated.
        columns: The data's names of fields, as for `mofo.data.rows.load_rows`.
        turns: Which of the assistant's turns count, as for `mofo.data.tokens.encode`.
        trust_remote_code: Whether code that comes with a model may run.

    Raises:
        UserError: The rows cannot be read, or no row has a completion within `max_length`.
    """
    held_out = load_rows(data, split="test", limit=rows, columns=columns)
    folder = local_folder(base)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    whole = encode_rows(held_out, tokenizer, WHOLE, turns=turns, place=find_row({data: held_out}))
    used = usage(whole, max_length)
    if not used.usable:
        raise UserError(f"No row of {data} has a completion within {max_length} tokens: raise --max-length.")
    check_positions(used.longest, folder_positions(folder, trust_remote_code=trust_remote_code), base)
    check_tokens(whole, folder_tokens(folder, trust_remote_code=trust_remote_code), base)
    examples = [example for example in (truncated(row, max_length) for row in whole) if has_labels(example)]
    return HeldOut(examples, used.by_reason("held-out"))

"""`mofo data`: what a model would learn from data, shown before a night of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mofo.data.conversation import Turns
from mofo.data.forms import Row
from mofo.data.rows import load_form
from mofo.data.tokens import IGNORED, WHOLE, Example, encode_rows, find_row
from mofo.data.usage import check_tokens, usage
from mofo.errors import UserError
from mofo.models.limits import folder_positions, folder_tokens
from mofo.models.load import load_tokenizer, local_folder
from mofo.results import Record

if TYPE_CHECKING:
    from rich.console import RenderableType
    from transformers import PreTrainedTokenizerBase

SHOWN_ROWS = 3
"""Rows that are shown token by token."""

BINS = 8
"""Bars of the histogram."""

BAR = 40
"""Characters of its longest bar."""

LEARNED = "bold green"
"""How tokens that are learned look in the terminal."""


class Stretch(Record):
    """Neighbouring tokens of a row that are all learned, or all not."""

    text: str = Field(description="the tokens as text")
    tokens: int = Field(description="number of tokens")
    learned: bool = Field(description="whether the loss counts on them")


class Bin(Record):
    """A bar of the histogram."""

    up_to: int = Field(description="most tokens of a row in it; the bar before has the shorter ones")
    rows: int = Field(description="number of rows")


class Lengths(Record):
    """Tokens of the rows, before any is cut."""

    shortest: int = Field(description="tokens of the shortest row")
    median: int = Field(description="tokens of the row in the middle")
    longest: int = Field(description="tokens of the longest row")
    total: int = Field(description="tokens of all rows")
    learned: int = Field(description="tokens that are learned, of all rows")
    histogram: list[Bin] = Field(description="number of rows by length")


class DataDescription(Record):
    """What a model would learn from data."""

    data: str = Field(description="where the rows come from")
    model: str = Field(description="whose tokenizer was used")
    form: list[str] = Field(description="the fields that were read, by the names of the form")
    rows: int = Field(description="number of rows")
    max_length: int = Field(description="tokens to which rows are cut")
    max_positions: int | None = Field(description="the most tokens that the model takes; null if it has no limit")
    usable: int = Field(description="rows that something is learned from")
    repeated: int = Field(description="rows that are equal to an earlier one")
    by_reason: dict[str, int] = Field(description="number of rows that are not used as they are, by reason")
    lengths: Lengths = Field(description="tokens of the rows")
    first: list[list[Stretch]] = Field(description="the first rows, as they are cut")


def describe_data(
    data: str,
    model: str,
    *,
    split: str = "train",
    limit: int | None = None,
    max_length: int = 1024,
    columns: Mapping[str, str] | None = None,
    turns: Turns = "all",
    trust_remote_code: bool = False,
) -> DataDescription:
    """Return what a model would learn from data.

    Args:
        data: The data, as for `mofo.data.rows.load_rows`.
        model: The model whose tokenizer is used, as for `mofo.models.load.resolve_model`.
        split: The split of a hub data set.
        limit: The most rows to read.
        max_length: Tokens to which rows are cut.
        columns: The data's names of fields.
        turns: Which of the assistant's turns are learned.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        UserError: The data or the model cannot be used, or a row cannot be made into tokens.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--rows is {limit}, expected at least 1.")
    form, rows = load_form(data, split=split, limit=limit, columns=columns)
    folder = local_folder(model)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    examples = encode_rows(rows, tokenizer, WHOLE, turns=turns, place=find_row({data: rows}))
    used = usage(examples, max_length)
    check_tokens(examples, folder_tokens(folder, trust_remote_code=trust_remote_code), model)
    return DataDescription(
        data=data,
        model=model,
        form=list(form),
        rows=len(rows),
        max_length=max_length,
        max_positions=folder_positions(folder, trust_remote_code=trust_remote_code),
        usable=used.usable,
        repeated=_repeated(rows),
        by_reason=used.by_reason("training"),
        lengths=_lengths(examples),
        first=[_stretches(example, max_length, tokenizer) for example in examples[:SHOWN_ROWS]],
    )


def shown(description: DataDescription) -> RenderableType:
    """Return a description for the terminal: numbers, a histogram, and the first rows, what is learned in colour."""
    lengths, limit = description.lengths, description.max_positions
    facts = Table.grid(padding=(0, 2))
    facts.add_row("form", " and ".join(description.form))
    facts.add_row("rows", f"{description.rows:,}, {description.usable:,} of them usable")
    facts.add_row("tokens", f"{lengths.total:,}, {lengths.learned:,} of them learned")
    facts.add_row("of a row", f"{lengths.shortest:,} to {lengths.longest:,}, median {lengths.median:,}")
    for reason, count in description.by_reason.items():
        facts.add_row("", Text(f"{count:,} {reason} = {description.max_length}", "yellow"))
    if description.repeated:
        facts.add_row("", Text(f"{description.repeated:,} repeated rows", "yellow"))
    longest = min(lengths.longest, description.max_length)
    if limit is not None and longest > limit:
        facts.add_row("", Text(f"The model takes at most {limit:,} tokens: give --max-length {limit}.", "red"))
    bars = Table.grid(padding=(0, 2))
    most = max(bin_.rows for bin_ in lengths.histogram)
    for bin_ in lengths.histogram:
        length = Text(f"up to {bin_.up_to:,}", justify="right")
        bars.add_row(length, "█" * math.ceil(BAR * bin_.rows / most), f"{bin_.rows:,}")
    parts: list[RenderableType] = [facts, Text(), Text("Rows by their number of tokens:"), bars]
    for number, row in enumerate(description.first, 1):
        counts = f"{sum(part.tokens for part in row if part.learned)} of {sum(part.tokens for part in row)}"
        parts += [Text(), Text(f"Row {number}: {counts} tokens learned", "bold")]
        parts.append(Text.assemble(*((part.text, LEARNED if part.learned else "dim") for part in row)))
    return Group(*parts)


def _repeated(rows: list[Row]) -> int:
    return len(rows) - len({repr(row) for row in rows})


def _lengths(examples: list[Example]) -> Lengths:
    lengths = sorted(len(example["input_ids"]) for example in examples)
    width = math.ceil((lengths[-1] - lengths[0] + 1) / BINS)
    edges = range(lengths[0] + width - 1, lengths[-1] + width, width)
    counts = {edge: sum(edge - width < length <= edge for length in lengths) for edge in edges}
    return Lengths(
        shortest=lengths[0],
        median=lengths[len(lengths) // 2],
        longest=lengths[-1],
        total=sum(lengths),
        learned=sum(label != IGNORED for example in examples for label in example["labels"]),
        histogram=[Bin(up_to=edge, rows=count) for edge, count in counts.items()],
    )


def _stretches(example: Example, max_length: int, tokenizer: PreTrainedTokenizerBase) -> list[Stretch]:
    ids, labels = example["input_ids"][:max_length], example["labels"][:max_length]
    edges = [i for i in range(len(ids)) if i == 0 or (labels[i] == IGNORED) != (labels[i - 1] == IGNORED)]
    return [
        Stretch(text=str(tokenizer.decode(ids[start:stop])), tokens=stop - start, learned=labels[start] != IGNORED)
        for start, stop in zip(edges, [*edges[1:], len(ids)], strict=True)
    ]

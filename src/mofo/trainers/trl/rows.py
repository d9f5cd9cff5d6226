"""The file of rows that trl reads, and what is common to rows of all objectives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset, Features, Json, List, Value
from filelock import FileLock

from mofo.data.forms import Messages, Row
from mofo.data.tokens import find_row
from mofo.errors import UserError, first_line
from mofo.files import cache_folder, read_json, write_json
from mofo.models.load import load_tokenizer
from mofo.models.quiet import silence_datasets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mofo.trainers.trl.arguments import Arguments

EXTRAS = {"tools": List(Json()), "chat_template_kwargs": Json()}
"""Columns that a chat template is given, and their types."""

READ_BY_TRL = ("messages", "prompt", "completion", "text", "chosen", "rejected")
"""Columns that are texts in all rows, or messages in all."""

TOKENS = ("input_ids", "labels")
"""Columns of rows that are tokens already."""


def cached_file(rows: list[Row], settings: list[Any], make: Callable[[], tuple[list[Row], dict[str, int]]]) -> Path:
    """Return a Parquet file in the cache with rows that trl reads as they are.

    Its columns have types: where `datasets` guesses them, a text that looks like a date becomes a date, and the
    arguments of one tool become those of all. It is named after the hash of its content: processes share it, and so
    does the next training.

    Args:
        rows: The rows.
        settings: What else its content follows from, as JSON values.
        make: Called where there is no such file yet. It checks the rows and returns those to write, and how many are
            not used as they are, by reason.
    """
    digest = hashlib.sha256(json.dumps([rows, settings]).encode()).hexdigest()
    file = cache_folder() / "data" / f"{digest[:16]}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if not file.is_file():
            made, counts = make()
            write_json(_counts_file(file), counts)
            _write(made, file)
    return file


def row_counts(file: Path) -> dict[str, int]:
    """Return the number of rows of such a file that trl does not use as they are, by reason."""
    counts: dict[str, int] = read_json(_counts_file(file))
    return counts


def _counts_file(file: Path) -> Path:
    return file.with_suffix(".json")


def trl_tokenizer(args: Arguments) -> PreTrainedTokenizerBase:
    """Return the tokenizer as trl will use it."""
    training = args.training
    tokenizer = load_tokenizer(args.model_folder, trust_remote_code=training.trust_remote_code)
    template = getattr(training, "chat_template_path", None)
    if template is not None and Path(template).is_file():
        tokenizer.chat_template = Path(template).read_text(encoding="utf-8")
    elif template is not None:
        tokenizer.chat_template = load_tokenizer(Path(template)).chat_template
    eos_token = getattr(training, "eos_token", None)
    if eos_token is not None:
        tokenizer.eos_token = eos_token
    return tokenizer


def tokenizer_settings(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """Return what the tokens of a row follow from."""
    return [str(tokenizer.chat_template), tokenizer.eos_token, len(tokenizer), tokenizer("")["input_ids"]]


def for_trl(rows: list[Row], tokenizer: PreTrainedTokenizerBase, answers: Mapping[str, str]) -> list[Row]:
    """Return rows in trl's forms: a question and its answers become chats, or texts without a template.

    Args:
        rows: The rows; those without a question, and all other columns, stay as they are.
        tokenizer: The tokenizer, which has a chat template or not.
        answers: trl's names of what follows the prompt, and the columns that they come from.
    """
    has_template = tokenizer.chat_template is not None
    used = ("question", *answers.values())

    def made(row: Row) -> Row:
        return {
            "prompt": asked(row["question"], has_template=has_template),
            **{name: answered(row[column], has_template=has_template) for name, column in answers.items()},
            **{name: value for name, value in row.items() if name not in used},
        }

    return [made(row) if "question" in row else row for row in rows]


def asked(question: str, *, has_template: bool) -> Messages | str:
    """Return a question as a prompt: a chat where there is a template, a text otherwise."""
    return [{"role": "user", "content": question}] if has_template else f"Question: {question}\nAnswer:"


def answered(answer: str, *, has_template: bool) -> Messages | str:
    """Return an answer as what follows `asked`."""
    return [{"role": "assistant", "content": answer}] if has_template else f" {answer}"


def check_each(rows: list[Row], made: list[Row], source: str, check: Callable[[Row], None]) -> None:
    """Check rows of one kind, and name the row that is wrong.

    Args:
        rows: The rows as they were read.
        made: What was made of them.
        source: Where they come from, for messages.
        check: Raises an error if one of `made` cannot be used.

    Raises:
        UserError: A row cannot be used, or is of another kind than the first.
    """
    place = find_row({source: rows})
    for row, written in zip(rows, made, strict=True):
        try:
            if _kind(written) != _kind(made[0]):
                raise UserError(f"it has {_kind(written)}, and the first row {_kind(made[0])}.")
            check(written)
        except UserError as error:
            raise UserError(f"{place(row)}: {error}") from error
        except Exception as error:  # as in mofo.data.tokens.encode_rows
            raise UserError(f"{place(row)} cannot be made into tokens: {first_line(error)}.") from error


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a conversation where there is no template that could write it.

    Raises:
        UserError: There is none.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            "the tokenizer has no chat template, which a conversation needs: take a model that has one, give "
            "one with --chat_template_path, or give prompt and completion as texts."
        )


def _kind(row: Row) -> str:
    """Return what all rows must have in common."""
    forms = {name: "text" if isinstance(row[name], str) else "messages" for name in READ_BY_TRL if name in row}
    return " and ".join(f"{name} of {kind}" if name != kind else name for name, kind in forms.items())


def _write(rows: list[Row], file: Path) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    none: dict[str, Any] = {"tools": None, "chat_template_kwargs": {}}  # what trl takes for a row that has none
    filled = [{name: row.get(name, none.get(name)) for name in names} for row in rows]
    types = {name: EXTRAS.get(name) or _type([row[name] for row in filled], name) for name in names}
    scratch = file.with_suffix(".new")
    silence_datasets()
    Dataset.from_list(filled, features=Features(types)).to_parquet(scratch)
    scratch.replace(file)


def _type(values: list[Any], name: str) -> Any:
    """Return the type of a column."""
    if name in TOKENS:
        return List(Value("int64"))
    if all(isinstance(value, str) for value in values):
        return Value("string")
    return List(Json()) if all(isinstance(value, list) for value in values) else Json()

"""Rows as trl takes them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as parquet
from datasets import Dataset, Features, Json, List, Value
from filelock import FileLock

from mofo.data.conversation import render_conversation, token_ids
from mofo.data.forms import Messages, Row
from mofo.data.tokens import IGNORED, WHOLE, Labelled, encode, find_row
from mofo.data.usage import check_positions, check_tokens, usage
from mofo.errors import UserError, first_line
from mofo.files import cache_folder, read_json, write_json
from mofo.models.limits import folder_positions, folder_tokens
from mofo.models.load import load_tokenizer
from mofo.models.quiet import silence_datasets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl import SFTConfig

EXTRAS = {"tools": List(Json()), "chat_template_kwargs": Json()}
"""Columns that a chat template is given, and their types."""

TOKENS = ("input_ids", "labels")
"""Columns of rows that are tokens already."""


def trl_file(rows: list[Row], source: str, training: SFTConfig, model: Path) -> Path:
    """Return a Parquet file in the cache with rows that trl takes and reads as they are.

    Its columns have types: where `datasets` guesses them, a text that looks like a date becomes a date, and the
    arguments of one tool become those of all. It is named after the hash of its content: processes share it, and so
    does the next training. Rows are checked when it is made.

    Args:
        rows: The rows.
        source: Where they come from, for messages.
        training: trl's settings.
        model: The model's folder, whose tokenizer writes them.

    Raises:
        UserError: The tokenizer cannot write a row; it is named.
    """
    tokenizer = _tokenizer(training, model)
    trusted = training.trust_remote_code
    limits = (folder_positions(model, trust_remote_code=trusted), folder_tokens(model, trust_remote_code=trusted))
    made = [_for_trl(row, has_template=tokenizer.chat_template is not None) for row in rows]
    settings = [
        str(tokenizer.chat_template),
        tokenizer.eos_token,
        len(tokenizer),
        training.max_length,
        training.packing,
        training.completion_only_loss,
        tokenizer("")["input_ids"],
        limits,
    ]
    digest = hashlib.sha256(json.dumps([made, settings]).encode()).hexdigest()
    file = cache_folder() / "data" / f"{digest[:16]}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if not file.is_file():
            write_json(_counts_file(file), _check(rows, made, source, tokenizer, training, limits))
            _write(_as_tokens(made, tokenizer, training) if _doubles(made, tokenizer) else made, file)
    return file


def row_counts(file: Path) -> dict[str, int]:
    """Return the number of rows of such a file that trl does not use as they are, by reason."""
    counts: dict[str, int] = read_json(_counts_file(file))
    return counts


def learns_all_turns(file: Path, training: SFTConfig) -> bool:
    """Return whether such a file has conversations of which trl learns every token, the user's too."""
    return "messages" in parquet.read_schema(file).names and not training.assistant_only_loss


def _counts_file(file: Path) -> Path:
    return file.with_suffix(".json")


def _tokenizer(training: SFTConfig, model: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer as trl will use it."""
    tokenizer = load_tokenizer(model, trust_remote_code=training.trust_remote_code)
    template = training.chat_template_path
    if template is not None and Path(template).is_file():
        tokenizer.chat_template = Path(template).read_text(encoding="utf-8")
    elif template is not None:
        tokenizer.chat_template = load_tokenizer(Path(template)).chat_template
    if training.eos_token is not None:
        tokenizer.eos_token = training.eos_token
    return tokenizer


def _for_trl(row: Row, *, has_template: bool) -> Row:
    """Return a row in one of trl's forms: a question and its answer become a chat, or texts without a template."""
    if "question" not in row:
        return row
    if has_template:
        return {
            "prompt": [{"role": "user", "content": row["question"]}],
            "completion": [{"role": "assistant", "content": row["answer"]}],
        }
    return {"prompt": f"Question: {row['question']}\nAnswer:", "completion": f" {row['answer']}"}


def _check(
    rows: list[Row],
    made: list[Row],
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    training: SFTConfig,
    limits: tuple[int | None, int | None],
) -> dict[str, int]:
    """Check that the tokenizer writes and the model reads every row; return how many are not used as they are."""
    place = find_row({source: rows})
    examples: list[Labelled] = []
    for row, written in zip(rows, made, strict=True):
        try:
            if _kind(written) != _kind(made[0]):
                raise UserError(f"it has {_kind(written)}, and the first row {_kind(made[0])}.")
            examples.append(_labelled(written, tokenizer))
        except UserError as error:
            raise UserError(f"{place(row)}: {error}") from error
        except Exception as error:  # as in mofo.data.tokens.encode_rows
            raise UserError(f"{place(row)} cannot be made into tokens: {first_line(error)}.") from error
    used = usage(examples, training.max_length or WHOLE)
    longest = training.max_length if training.packing else used.longest
    check_positions(longest or used.longest, limits[0], "the model")
    check_tokens(examples, limits[1], "the model")
    if training.max_length is None or training.packing:
        return {}
    if not used.usable:
        raise UserError(f"No row of {source} has a completion within {training.max_length} tokens: raise --max_length.")
    return used.by_reason("training")


def _labelled(row: Row, tokenizer: PreTrainedTokenizerBase) -> Labelled:
    """Return about what trl makes of a row, to count tokens."""
    first = row.get("messages") or row.get("prompt") or row["text"]
    if isinstance(first, str):
        if tokenizer.eos_token is None:
            raise UserError("the tokenizer has no end-of-sequence token: name one of its tokens with --eos_token.")
        prompt, whole = row.get("prompt", ""), first + row.get("completion", "") + tokenizer.eos_token
    else:
        if tokenizer.chat_template is None:
            raise UserError(
                "the tokenizer has no chat template, which a conversation needs: take a model that has one, give "
                "one with --chat_template_path, or give prompt and completion as texts."
            )
        messages: Messages = first + row.get("completion", [])
        whole = render_conversation(row, messages, tokenizer)
        prompt = render_conversation(row, first, tokenizer) if "prompt" in row else ""
    ids = token_ids(whole, tokenizer)
    before = min(len(token_ids(prompt, tokenizer)), len(ids))
    return {"input_ids": ids, "labels": [IGNORED] * before + ids[before:]}


def _doubles(rows: list[Row], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether trl would put a second start before a text, or a second end after it.

    It closes each text itself and then leaves the tokenizer to add what it adds.
    """
    firsts = [row.get("messages") or row.get("prompt") or row["text"] for row in rows]
    added: list[int] = tokenizer("")["input_ids"]
    if not isinstance(firsts[0], str) or not added:
        return False
    begins = added[0] == tokenizer.bos_token_id and any(first.startswith(str(tokenizer.bos_token)) for first in firsts)
    return begins or added[-1] == tokenizer.eos_token_id


def _as_tokens(rows: list[Row], tokenizer: PreTrainedTokenizerBase, training: SFTConfig) -> list[Row]:
    """Return plain rows as tokens and labels, which trl takes as they are."""
    made: list[Row] = []
    for row in rows:
        example = encode(row, tokenizer, WHOLE)
        labels = example["input_ids"] if training.completion_only_loss is False else example["labels"]
        made.append({"input_ids": example["input_ids"], "labels": labels})
    return made


def _kind(row: Row) -> str:
    """Return what all rows must have in common."""
    forms = {name: "text" if isinstance(row[name], str) else "messages" for name in row if name not in EXTRAS}
    return " and ".join(f"{name} of {kind}" if name != kind else name for name, kind in forms.items())


def _write(rows: list[Row], file: Path) -> None:
    types: dict[str, Any] = {
        name: Value("string") if isinstance(value, str) else List(Value("int64") if name in TOKENS else Json())
        for name, value in rows[0].items()
        if name not in EXTRAS
    }
    extras = {name: kind for name, kind in EXTRAS.items() if any(name in row for row in rows)}
    none: dict[str, Any] = {"tools": None, "chat_template_kwargs": {}}  # what trl takes for a row that has none
    filled = [{**{name: none[name] for name in extras}, **row} for row in rows]
    scratch = file.with_suffix(".new")
    silence_datasets()
    Dataset.from_list(filled, features=Features({**types, **extras})).to_parquet(scratch)
    scratch.replace(file)

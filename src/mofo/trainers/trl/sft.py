"""Supervised fine-tuning: `mofo sft`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as parquet
from trl import ScriptArguments, SFTConfig, SFTTrainer
from trl.scripts.sft import main as trl_sft

from mofo.data.conversation import render_conversation, token_ids
from mofo.data.forms import FORMS, Messages, Row
from mofo.data.tokens import IGNORED, WHOLE, Labelled, encode
from mofo.data.usage import check_positions, check_tokens, usage
from mofo.errors import UserError
from mofo.models.limits import folder_positions, folder_tokens
from mofo.trainers.trl.objective import Objective
from mofo.trainers.trl.rows import cached_file, check_each, check_template, for_trl, tokenizer_settings, trl_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mofo.trainers.trl.arguments import Arguments

ALL_TURNS = (
    "every token of the conversations is learned, the user's too, as trl does; --assistant_only_loss True learns what "
    "the assistant says, as mofo compare does"
)


def write_rows(rows: list[Row], source: str, args: Arguments) -> Path:
    """Return a file with rows that trl takes and reads as they are; they are checked when it is made.

    Args:
        rows: The rows.
        source: Where they come from, for messages.
        args: The command line.

    Raises:
        UserError: The tokenizer cannot write a row; it is named.
    """
    tokenizer, training = trl_tokenizer(args), args.training
    made = for_trl(rows, tokenizer, {"completion": "answer"})
    folder, trusted = args.model_folder, training.trust_remote_code
    limits = (folder_positions(folder, trust_remote_code=trusted), folder_tokens(folder, trust_remote_code=trusted))
    settings = [training.max_length, training.packing, training.completion_only_loss, limits]

    def checked() -> tuple[list[Row], dict[str, int]]:
        counts = _check(rows, made, source, tokenizer, training, limits)
        return (_as_tokens(made, tokenizer, training) if _doubles(made, tokenizer) else made), counts

    return cached_file(made, [*tokenizer_settings(tokenizer), *settings], checked)


def notes(file: Path, training: SFTConfig) -> list[str]:
    """Return a sentence if such a file has conversations of which trl learns every token, the user's too."""
    learns_all = "messages" in parquet.read_schema(file).names and not training.assistant_only_loss
    return [ALL_TURNS] if learns_all else []


def _check(
    rows: list[Row],
    made: list[Row],
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    training: SFTConfig,
    limits: tuple[int | None, int | None],
) -> dict[str, int]:
    """Check that the tokenizer writes and the model reads every row; return how many are not used as they are."""
    examples: list[Labelled] = []
    check_each(rows, made, source, lambda written: examples.append(_labelled(written, tokenizer)))
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
        check_template(tokenizer)
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


OBJECTIVE = Objective(
    name="sft",
    config=SFTConfig,
    script_arguments=ScriptArguments,
    trainer=SFTTrainer,
    script=trl_sft,
    forms=FORMS,
    known_to_trl=(("messages",), ("prompt", "completion"), ("text",)),
    write_rows=write_rows,
    notes=notes,
    description="Fine-tune a model as `trl sft` does, by what forgot least where it was measured:\n"
    "AdamW, held at the base by text that the base writes itself. --method chooses\n"
    "others; `mofo data` shows the forms of rows, and what of them is learned.",
    example="  mofo sft --model_name_or_path smollm2-135m --dataset_name data.jsonl \\\n"
    "           --learning_rate 1e-4 --output_dir tuned",
)

"""Direct preference optimisation: `mofo dpo`."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from trl import DPOConfig, DPOTrainer, ScriptArguments
from trl.scripts.dpo import main as trl_dpo

from mofo.data.conversation import render_conversation, token_ids
from mofo.data.forms import Form, Messages, Row, RowError, is_empty, template_extras, text, text_or_turns
from mofo.errors import UserError
from mofo.trainers.trl.objective import Objective
from mofo.trainers.trl.rows import (
    answered,
    cached_file,
    check_each,
    check_template,
    for_trl,
    tokenizer_settings,
    trl_tokenizer,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mofo.trainers.trl.arguments import Arguments

ANSWERS = ("chosen", "rejected")
"""The better and the worse answer."""


def _preference(row: Row) -> Row:
    """Return prompt and answers as trl has them: all texts, or all messages."""
    chosen, rejected = (text_or_turns(row[name], name) for name in ANSWERS)
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _texts(row, chosen, rejected)
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise RowError(": chosen and rejected must both be texts or both be lists of messages")
    return _conversations(row, chosen, rejected)


def _conversations(row: Row, chosen: Messages, rejected: Messages) -> Row:
    """Return answers that are messages, with their prompt.

    They may be whole conversations, as on the Hub: what both begin with is then the prompt, whatever else the row has
    as such.
    """
    before = zip(chosen[:-1], rejected[:-1], strict=False)
    shared = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], before)]
    if any(turn["role"] == "user" for turn in shared):
        prompt, chosen, rejected = shared, chosen[len(shared) :], rejected[len(shared) :]
    elif is_empty(row.get("prompt")):
        raise RowError(" has no prompt, and chosen and rejected do not begin with the same turns")
    else:
        given = text_or_turns(row["prompt"], "prompt")
        prompt = [{"role": "user", "content": given}] if isinstance(given, str) else given
    for name, answer in zip(ANSWERS, (chosen, rejected), strict=True):
        said = [turn for turn in answer if turn["role"] == "assistant"]
        if not said or (is_empty(said[-1].get("content")) and not said[-1].get("tool_calls")):
            raise RowError(f": the assistant says nothing in {name}")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **template_extras(row)}


def _texts(row: Row, chosen: str, rejected: str) -> Row:
    """Return answers that are texts, with their prompt; without one trl takes what both begin with."""
    if is_empty(row.get("prompt")):
        return {"chosen": chosen, "rejected": rejected}
    prompt = text_or_turns(row["prompt"], "prompt")
    if isinstance(prompt, str):
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    return {
        "prompt": prompt,
        "chosen": answered(chosen, has_template=True),
        "rejected": answered(rejected, has_template=True),
        **template_extras(row),
    }


def _question(row: Row) -> Row:
    return {"question": text(row["question"], "question"), **{name: text(row[name], name) for name in ANSWERS}}


FORMS = (
    Form(("question", *ANSWERS), _question),
    Form(ANSWERS, _preference, ("prompt", "tools", "chat_template_kwargs")),
)


def write_rows(rows: list[Row], source: str, args: Arguments) -> Path:
    """Return a file with rows that trl takes and reads as they are; they are checked when it is made.

    Rows whose answers are equal are left out and counted: nothing can be learned from them.

    Args:
        rows: The rows.
        source: Where they come from, for messages.
        args: The command line.

    Raises:
        UserError: The tokenizer cannot write a row; it is named.
    """
    tokenizer, longest = trl_tokenizer(args), args.training.max_length
    made = for_trl(rows, tokenizer, {name: name for name in ANSWERS})

    def checked() -> tuple[list[Row], dict[str, int]]:
        lengths: list[int] = []
        check_each(rows, made, source, lambda row: lengths.append(_length(row, tokenizer)))
        different = [row for row in made if row["chosen"] != row["rejected"]]
        if not different:
            raise UserError(f"No row of {source} has answers that differ: chosen and rejected are the same in all.")
        counts = {
            "rows left out, as their answers are equal": len(made) - len(different),
            "rows cut at max_length": 0 if longest is None else sum(length > longest for length in lengths),
        }
        return different, {reason: count for reason, count in counts.items() if count}

    return cached_file(made, [*tokenizer_settings(tokenizer), longest], checked)


def _length(row: Row, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the number of tokens of the longer answer with its prompt; an error says what cannot be written."""
    if isinstance(row["chosen"], str):
        if tokenizer.eos_token is None:
            raise UserError(
                "the tokenizer has no end-of-sequence token, which ends each answer: take a model with one."
            )
        return max(len(token_ids(row.get("prompt", "") + row[name], tokenizer)) + 1 for name in ANSWERS)
    check_template(tokenizer)
    written = [render_conversation(row, row["prompt"] + row[name], tokenizer) for name in ANSWERS]
    return max(len(token_ids(whole, tokenizer)) for whole in written)


OBJECTIVE = Objective(
    name="dpo",
    config=DPOConfig,
    script_arguments=ScriptArguments,
    trainer=DPOTrainer,
    script=trl_dpo,
    forms=FORMS,
    known_to_trl=(),
    write_rows=write_rows,
    description="Learn from pairs of a better and a worse answer (direct preference\n"
    "optimisation), as `trl dpo` does, with any --method. A row has chosen\n"
    "and rejected, and prompt or question: texts, or lists of messages.",
    example="  mofo dpo --model_name_or_path smollm2-135m --dataset_name pairs.jsonl \\\n"
    "           --learning_rate 1e-5 --output_dir tuned",
)

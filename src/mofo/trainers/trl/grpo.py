"""Group relative policy optimisation with rewards that can be checked: `mofo grpo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trl import GRPOConfig, GRPOTrainer
from trl.scripts.grpo import GRPOScriptArguments
from trl.scripts.grpo import main as trl_grpo

from mofo.data.conversation import render_conversation
from mofo.data.forms import Form, Row, RowError, template_extras, text, text_or_turns
from mofo.errors import UserError
from mofo.trainers.trl.objective import Objective
from mofo.trainers.trl.rows import cached_file, check_each, check_template, for_trl, tokenizer_settings, trl_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mofo.trainers.trl.arguments import Arguments

SOLVED = "mofo.trainers.trl.rewards.solved"
"""The reward of those who name none."""


def _others(row: Row, *used: str) -> Row:
    """Return the columns that only rewards read."""
    return {name: value for name, value in row.items() if name not in used}


def _prompt(row: Row) -> Row:
    prompt = text_or_turns(row["prompt"], "prompt")
    if isinstance(prompt, list) and prompt[-1]["role"] == "assistant":
        raise RowError(": the last message of prompt is the assistant's, whose turn it should be")
    extras = template_extras(row) if isinstance(prompt, list) else {}
    return _others(row, "completion", "tools", "chat_template_kwargs") | {"prompt": prompt, **extras}


def _question(row: Row) -> Row:
    return _others(row, "prompt", "completion") | {"question": text(row["question"], "question")}


def _problem(row: Row) -> Row:
    return _others(row, "prompt", "completion") | {
        "question": text(row["problem"], "problem"),
        "answer": text(row["solution"], "solution"),
    }


FORMS = (
    Form(("prompt",), _prompt, ("answer", "tools", "chat_template_kwargs")),
    Form(("question",), _question, ("answer",)),
    Form(("problem", "solution"), _problem),
)


def write_rows(rows: list[Row], source: str, args: Arguments) -> Path:
    """Return a file with prompts and the columns that rewards read; they are checked when it is made.

    Args:
        rows: The rows.
        source: Where they come from, for messages.
        args: The command line.

    Raises:
        UserError: The tokenizer cannot write a row, or its reward lacks the answer; it is named.
    """
    if SOLVED in (args.script.reward_funcs or []):
        unanswered = next((number for number, row in enumerate(rows, 1) if "answer" not in row), None)
        if unanswered is not None:
            raise UserError(
                f"{source}, row {unanswered} has no answer, with which the reward `solved` compares: name the field "
                "with --columns answer=FIELD, or another reward with --reward_funcs."
            )
    tokenizer = trl_tokenizer(args)
    made = for_trl(rows, tokenizer, {})

    def checked() -> tuple[list[Row], dict[str, int]]:
        check_each(rows, made, source, lambda row: _check(row, tokenizer))
        return made, {}

    return cached_file(made, tokenizer_settings(tokenizer), checked)


def _check(row: Row, tokenizer: PreTrainedTokenizerBase) -> None:
    if isinstance(row["prompt"], list):
        check_template(tokenizer)
        render_conversation(row, row["prompt"], tokenizer)


def check(args: Arguments) -> None:
    """Choose the reward of those who name none."""
    if args.script.reward_funcs:
        args.script.reward_funcs = [SOLVED if name == "solved" else name for name in args.script.reward_funcs]
    elif not args.script.reward_model_name_or_path:
        args.script.reward_funcs = [SOLVED]


OBJECTIVE = Objective(
    name="grpo",
    config=GRPOConfig,
    script_arguments=GRPOScriptArguments,
    trainer=GRPOTrainer,
    script=trl_grpo,
    forms=FORMS,
    known_to_trl=(),
    write_rows=write_rows,
    check=check,
    counts_tokens=False,
    description="Learn from rewards of answers that the model writes itself (group relative\n"
    "policy optimisation), as `trl grpo` does, with any --method. A row has\n"
    "prompt or question, and what the reward reads. --reward_funcs solved, which is\n"
    "taken where none is named, compares with the row's answer; reasoning-gym:FAMILY\n"
    "generates problems and scores them.",
    example="  mofo grpo --model_name_or_path smollm2-135m --dataset_name reasoning-gym:chain_sum \\\n"
    "            --max_steps 100 --learning_rate 1e-6 --output_dir tuned",
)

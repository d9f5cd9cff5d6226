"""Accuracy by generating: does the model reach the right answer?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from mofo.data.tokens import Problem
from mofo.measure.mean import Mean
from mofo.measure.progress import report
from mofo.measure.scoring import inference, pad
from mofo.models.limits import position_limit

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLES = 4
"""How many generated answers are returned as text."""


GENERAL_QUESTIONS = (
    {"question": "What is the capital of Japan, and what is it known for?", "answer": "Tokyo."},
    {"question": "Write two sentences about the sea in winter.", "answer": "It is grey. It is cold."},
)
"""Questions of no task, whose answers a reader can judge; the answers here only complete the rows."""


class WrittenAnswer(TypedDict):
    """A generated answer, to be read."""

    prompt: str
    expected: str
    generated: str
    correct: bool


class Accuracy(TypedDict):
    """The share of right answers, whose units are the problems, how many were generated, and the first few of them."""

    accuracy: Mean
    answers: int
    samples: list[WrittenAnswer]


def answer_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    *,
    max_new_tokens: int = 256,
    batch_size: int = 32,
) -> Accuracy:
    """Return the share of problems whose greedily generated answer equals the reference, by its final answer.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        problems: Prompts and reference answers, worked or not.
        max_new_tokens: Where an answer that does not end is cut off.
        batch_size: Problems that are answered at once.

    Raises:
        ValueError: There are no problems.
    """
    if not problems:
        raise ValueError("no problems: there is no accuracy to measure")
    generated: dict[int, str] = {}
    lengths = [len(problem["prompt_ids"]) for problem in problems]
    for rows in _batches(lengths, batch_size, one_length=model._is_stateful):
        answers = generate(model, tokenizer, [problems[row]["prompt_ids"] for row in rows], max_new_tokens)
        generated.update(zip(rows, answers, strict=True))
    correct = [is_correct(generated[row], problem["answer"]) for row, problem in enumerate(problems)]
    samples: list[WrittenAnswer] = [
        {
            "prompt": str(tokenizer.decode(problem["prompt_ids"])),
            "expected": problem["answer"],
            "generated": generated[row],
            "correct": correct[row],
        }
        for row, problem in enumerate(problems[:SAMPLES])
    ]
    return {"accuracy": Mean(correct), "answers": len(correct), "samples": samples}


def _batches(lengths: list[int], size: int, *, one_length: bool) -> Iterator[list[int]]:
    """Yield row numbers in batches of similar lengths, so that little is spent on padding.

    Args:
        lengths: Length of each row.
        size: The most rows of a batch.
        one_length: Whether a batch must need no padding at all: some recurrent models read it as if it were text.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    groups = [list(rows) for _, rows in groupby(order, key=lambda row: lengths[row])] if one_length else [order]
    for rows in groups:
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], max_new_tokens: int
) -> list[str]:
    """Continue each prompt greedily until it ends or the model's positions do, and return the new text."""
    answers = _continue(model, tokenizer, prompts, max_new_tokens, do_sample=False)
    return tokenizer.batch_decode(answers, skip_special_tokens=True)


def sample_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int = 32,
) -> list[list[int]]:
    """Continue each prompt by sampling from the whole distribution until it ends or the model's positions do.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        prompts: Token ids of the prompts.
        max_new_tokens: Where an answer that does not end is cut off.
        temperature: Of the sampling.
        seed: Of the sampling; the global random states are left as they were.
        batch_size: Prompts that are answered at once.

    Returns:
        Token ids of each answer, with the end token of one that ended.
    """
    answers: dict[int, list[int]] = {}
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for rows in _batches([len(prompt) for prompt in prompts], batch_size, one_length=model._is_stateful):
            batch = [prompts[row] for row in rows]
            output = _continue(
                model, tokenizer, batch, max_new_tokens, do_sample=True, temperature=temperature, top_k=0
            )
            answers.update(zip(rows, _ended(output, end_tokens(model, tokenizer)), strict=True))
    return [answers[row] for row in range(len(prompts))]


def complete_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    stop: Sequence[str],
    what: str,
    batch_size: int = 32,
    **settings: Any,
) -> list[str]:
    """Continue each prompt until it ends, writes one of several texts, or is cut off.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        prompts: Token ids of the prompts.
        max_new_tokens: Where a text that does not end is cut off.
        stop: Texts at which a continuation is at its end; it may hold one of them, and what follows.
        what: What is asked, for those who watch the progress.
        batch_size: Prompts that are continued at once.
        settings: Fields of `transformers.GenerationConfig`, such as `do_sample`.

    Returns:
        The new text of each prompt.
    """
    texts: dict[int, str] = {}
    stop_at = {"stop_strings": list(stop)} if stop else {}
    for rows in _batches([len(prompt) for prompt in prompts], batch_size, one_length=model._is_stateful):
        batch = [prompts[row] for row in rows]
        output = _continue(model, tokenizer, batch, max_new_tokens, **stop_at, **settings)
        texts.update(zip(rows, tokenizer.batch_decode(output, skip_special_tokens=True), strict=True))
        report(what, len(texts), len(prompts))
    return [texts[row] for row in range(len(prompts))]


def _ended(output: Tensor, end: list[int]) -> list[list[int]]:
    """Return rows of generated tokens, each up to its first end token: what follows it is filling."""
    rows: list[list[int]] = output.tolist()
    lengths = [next((place + 1 for place, token in enumerate(row) if token in end), len(row)) for row in rows]
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def _continue(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    **settings: Any,
) -> Tensor:
    """Return the tokens that follow each prompt, (prompts, length); rows that ended sooner are filled up."""
    room = min(max_new_tokens, position_limit(model.config) - max(map(len, prompts)))
    if room < 1:
        return torch.zeros(len(prompts), 0, dtype=torch.int64)
    end = end_tokens(model, tokenizer)
    filling = end[0] if end else 0
    inputs = pad(prompts, filling, side="left")
    mask = pad([[1] * len(prompt) for prompt in prompts], 0, side="left")
    with inference(model), _generating(model, eos_token_id=end or None, pad_token_id=filling, **settings):
        output: Tensor = model.generate(  # type: ignore[operator]  # causal language models have it
            input_ids=inputs.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=room,
            tokenizer=tokenizer,  # finds texts at which to stop
        )
    return output[:, inputs.shape[1] :]


@contextmanager
def _generating(model: PreTrainedModel, **settings: Any) -> Iterator[None]:
    """Put these settings alone in the place of those that the model was published with, which `generate` falls back on.

    Beams, penalties, forbidden or forced tokens would all make another text.
    """
    from transformers import GenerationConfig

    published = model.generation_config
    model.generation_config = GenerationConfig(**settings)
    try:
        yield
    finally:
        model.generation_config = published


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end an answer: the tokenizer's, and those the model was published with."""
    published = model.generation_config.eos_token_id
    published = published if isinstance(published, list) else [published]
    return [token for token in dict.fromkeys([tokenizer.eos_token_id, *published]) if token is not None]


def is_correct(generated: str, reference: str) -> bool:
    """Compare final answers: those after the last `####` if the reference has one, else the whole texts.

    If the reference has `####`, a generated text without it is wrong: the model is asked to learn to end that way, and
    to look for a number anywhere in its text would count what it never gave as its answer.
    """
    if "####" not in reference:
        return normalise(generated) == normalise(reference)
    if "####" not in generated:
        return False
    return normalise(final_answer(generated)) == normalise(final_answer(reference))


def final_answer(text: str) -> str:
    """Return what follows the last `####` on its line."""
    return text.rpartition("####")[2].strip().partition("\n")[0]


def normalise(text: str) -> str:
    """Remove what does not change an answer: case, extra white space, a final period, and commas inside numbers."""
    text = " ".join(text.casefold().split()).removesuffix(".").rstrip()
    return re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)

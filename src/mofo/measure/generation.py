"""Accuracy by generating: does the model reach the right answer?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from mofo.data.tokens import Problem
from mofo.measure.mean import Mean
from mofo.measure.scoring import inference, pad

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
    # Prompts of similar length share a batch, so that little is spent on padding.
    order = sorted(range(len(problems)), key=lambda row: len(problems[row]["prompt_ids"]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
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


def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], max_new_tokens: int
) -> list[str]:
    """Continue each prompt greedily until it ends, and return the new text."""
    from transformers import GenerationConfig

    end = end_tokens(model, tokenizer)
    # Every setting that a model's own generation_config may bring is named, so that greedy means greedy for all models.
    greedy = GenerationConfig(
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        max_new_tokens=max_new_tokens,
        eos_token_id=end,
        pad_token_id=end[0],
    )
    inputs = pad(prompts, end[0], side="left")
    lengths = [len(prompt) for prompt in prompts]
    mask = pad([[1] * length for length in lengths], 0, side="left")
    with inference(model):
        output: Tensor = model.generate(  # type: ignore[operator]  # causal language models have it
            input_ids=inputs.to(model.device), attention_mask=mask.to(model.device), generation_config=greedy
        )
    return tokenizer.batch_decode(output[:, inputs.shape[1] :], skip_special_tokens=True)


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

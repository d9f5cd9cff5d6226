"""Choice questions: does the model still know what it knew?"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from mofo.data.tokens import IGNORED
from mofo.errors import UserError
from mofo.measure.scoring import batches, inference, pad, token_log_probabilities

if TYPE_CHECKING:
    from collections.abc import Sequence

GENERAL_KNOWLEDGE = Path(__file__).with_name("choice_questions.jsonl")
"""The project's own questions."""


class Question(TypedDict):
    """One question; `answer` is the index of the right one among `choices`."""

    question: str
    choices: list[str]
    answer: int


class ChoiceProbe:
    r"""Accuracy on choice questions, and how probable the right answers are.

    The model never sees the choices side by side, which small models cannot use: each choice is scored by
    itself as the continuation of `Question: …\nAnswer:`, and the model's answer is the choice with the
    highest log-probability per token (without the division, short choices would win).

    Args:
        name: Name of the probe.
        questions: The questions.
        tokenizer: The tokenizer of the models to be measured.
    """

    def __init__(self, name: str, questions: list[Question], tokenizer: Any) -> None:
        self.name = name
        self._answers = [question["answer"] for question in questions]
        # questions by the length of their prompt: prompts of one length need no padding
        self._by_length: dict[int, list[tuple[int, list[int], list[list[int]]]]] = defaultdict(list)
        for number, question in enumerate(questions):
            prompt, choices = tokenize(question, tokenizer)
            self._by_length[len(prompt)].append((number, prompt, choices))

    def measure(self, model: Any) -> dict[str, float]:
        """Measure `model`.

        Returns:
            `accuracy`, the share of questions answered right, and `log_probability`, the mean over the
            questions of the right answer's log-probability in nats *among the choices* (the softmax of
            their scores; guessing blindly among four gives −1.39). Higher is better for both. The
            log-probability by itself would show, above all, how the model has come to like the format.
        """
        scores: dict[int, list[float]] = {}
        with inference(model):
            for length, group in self._by_length.items():
                widths = [length + sum(map(len, choices)) for _, _, choices in group]
                for batch in batches(widths):
                    numbers, prompts, choices = zip(*(group[row] for row in batch), strict=True)
                    scores.update(zip(numbers, score(model, prompts, choices), strict=True))
        hits = [scores[n].index(max(scores[n])) == answer for n, answer in enumerate(self._answers)]
        right = [float(torch.tensor(scores[n]).log_softmax(0)[answer]) for n, answer in enumerate(self._answers)]
        return {"accuracy": sum(hits) / len(hits), "log_probability": sum(right) / len(right)}


def tokenize(question: Question, tokenizer: Any) -> tuple[list[int], list[list[int]]]:
    """Return the token ids of the prompt, and of each choice as they continue it.

    A choice is tokenised together with its prompt, since a tokenizer may treat the start of a text
    differently; what all have in common is the prompt.
    """
    prompt = f"Question: {question['question'].strip()}\nAnswer:"
    texts = [prompt, *(f"{prompt} {choice.strip()}" for choice in question["choices"])]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    different = (position for position, tokens in enumerate(zip(*ids, strict=False)) if len(set(tokens)) > 1)
    shared = ids[0][: next(different, len(ids[0]))]
    return shared, [whole[len(shared) :] for whole in ids[1:]]


def score(model: Any, prompts: Sequence[list[int]], choices: Sequence[list[list[int]]]) -> list[list[float]]:
    """Log-probability per token of each choice of each question.

    Each prompt runs once. Its last position predicts the first token of every choice; for the others the
    choices run as continuations of the prompt's cached keys and values.

    Args:
        model: A transformers causal language model.
        prompts: Token ids of the questions' prompts, all of one length.
        choices: Token ids of each question's choices.

    Returns:
        One list of scores in nats for each question.
    """
    device = model.device
    owner = [row for row, group in enumerate(choices) for _ in group]
    flat = [choice for group in choices for choice in group]

    output = model(input_ids=torch.tensor(prompts, device=device), logits_to_keep=1, use_cache=True)
    first = output.logits[:, -1].float().log_softmax(dim=-1)
    totals = first[owner, [choice[0] for choice in flat]].double()

    longer = [row for row, choice in enumerate(flat) if len(choice) > 1]
    if longer:
        cache = output.past_key_values
        cache.batch_select_indices(torch.tensor([owner[row] for row in longer], device=device))
        inputs = pad([flat[row][:-1] for row in longer], 0).to(device)
        targets = pad([flat[row][1:] for row in longer], IGNORED).to(device)
        logits = model(input_ids=inputs, past_key_values=cache, use_cache=True).logits
        totals[longer] += token_log_probabilities(logits, targets).sum(dim=1, dtype=torch.float64)

    means = iter(total / len(choice) for total, choice in zip(totals.tolist(), flat, strict=True))
    return [[next(means) for _ in group] for group in choices]


def read_questions(path: Path) -> list[Question]:
    """Read questions from a JSON Lines file of rows `{"question": str, "choices": [str, …], "answer": int}`.

    Raises:
        UserError: The file is missing, empty or not UTF-8, or a row is malformed; its number is named.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the choice questions cannot be read from {path}: {error}") from error
    questions = [parse(line, f"{path}, row {row}") for row, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise UserError(f"{path} is empty: expected one JSON object with `question`, `choices`, `answer` a line")
    return questions


def parse(line: str, where: str) -> Question:
    """Return the question that a line of JSON holds, or raise a `UserError` that says `where` it is malformed."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict) or not {"question", "choices", "answer"} <= row.keys():
        raise UserError(f"{where} must be an object with `question`, `choices` and `answer`")
    question, choices, answer = row["question"], row["choices"], row["answer"]
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{where}: `question` must be a text that is not empty")
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise UserError(f"{where}: `choices` must be a list of texts that are not empty")
    if len({choice.strip() for choice in choices}) != len(choices) or len(choices) < 2:
        raise UserError(f"{where}: `choices` must be at least two different texts")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise UserError(f"{where}: `answer` must be the index of a choice, 0 to {len(choices) - 1}, not {answer!r}")
    return {"question": question, "choices": choices, "answer": answer}

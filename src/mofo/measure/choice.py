"""Choice questions: does the model still know what it knew?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from mofo.errors import UserError
from mofo.measure.continuations import Tokenized, score_batch, score_continuations
from mofo.measure.mean import Mean
from mofo.measure.probe import Answer, Base, Options, Probe
from mofo.measure.scoring import inference
from mofo.results import Metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GENERAL_KNOWLEDGE = Path(__file__).with_name("choice_questions.jsonl")
"""The project's own questions."""


class Question(TypedDict):
    """One question; `answer` is the index of the right one among `choices`."""

    question: str
    choices: list[str]
    answer: int


class ChoiceProbe(Probe):
    r"""Accuracy on choice questions, and how probable the right answers are.

    The model never sees the choices side by side, which small models cannot use: each choice is scored by itself as the
    continuation of `Question: …\nAnswer:`, and the model's answer is the choice with the highest log-probability per
    token (without the division, short choices would win).

    Args:
        name: Name of the probe.
        questions: The questions.
        tokenizer: The tokenizer of the models to be measured.
    """

    usage = ("choice", "choice:FILE.jsonl")
    numbers = "accuracy, and the log-probability of the right answer among the choices in nats"
    better = "higher"
    cost = "a pass over all prompts and choices, about 8000 tokens"

    def __init__(self, name: str, questions: list[Question], tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(name)
        self._questions = questions
        self._tokenized = [tokenize_question(question, tokenizer) for question in questions]

    @classmethod
    def check(cls, argument: str, options: Options) -> None:
        """Check that the file of questions can be read, or else the project's own."""
        read_questions(argument)

    @classmethod
    def make(cls, name: str, argument: str, base: Base, state: Any) -> ChoiceProbe:
        """Return a probe on the questions of a file, or on the project's own if no file is given."""
        return cls(name, read_questions(argument), base.tokenizer)

    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """Measure a model.

        Returns:
            `accuracy`, the share of questions answered right, and `log_probability`, the mean over the questions of
            the right answer's log-probability in nats *among the choices* (the softmax of their log-probabilities per
            token; guessing blindly among four gives −1.39). Higher is better for both. The log-probability by itself
            would mostly show how the model has come to like the format. The units of both are the questions.
        """
        return self.ask(model)[0]

    def ask(self, model: PreTrainedModel) -> tuple[dict[str, float], list[Answer]]:
        """Return what `measure` returns, and the choice that the model made in each question."""
        with inference(model):
            scored = score_continuations(model, self._tokenized, self.name)
        answers = [
            _answer(question, [choice.per_token for choice in choices])
            for question, choices in zip(self._questions, scored, strict=True)
        ]
        names = ("accuracy", "log_probability")
        return {name: Mean([answer.scores[name] for answer in answers]) for name in names}, answers

    @property
    def metrics(self) -> list[Metric]:
        """Accuracy, and log-probability, which stands for the probe: accuracy on a few hundred questions is coarse."""
        questions = f"{len(self._questions)} questions with choices"
        return [
            Metric(
                kind="forgotten",
                source=self.name,
                name="accuracy",
                label=f"{self.name} accuracy",
                description=f"share of {questions} answered right",
                unit="percentage points",
                scale=100,
                higher_is_better=True,
                headline=False,
            ),
            Metric(
                kind="forgotten",
                source=self.name,
                name="log_probability",
                label=f"{self.name} log-probability",
                description=f"log-probability of the right answer among the choices, mean over {questions}",
                unit="nats",
                higher_is_better=True,
            ),
        ]


def _answer(question: Question, scores: list[float]) -> Answer:
    """Return what a model answered to a question whose choices it gave these log-probabilities per token."""
    right, given = question["answer"], scores.index(max(scores))
    log_probability = float(torch.tensor(scores).log_softmax(0)[right])
    return Answer(
        question["question"],
        question["choices"][right],
        question["choices"][given],
        {"accuracy": float(given == right), "log_probability": log_probability},
    )


def tokenize_question(question: Question, tokenizer: PreTrainedTokenizerBase) -> Tokenized:
    """Return the token ids of a question.

    A choice is tokenised together with its prompt, since a tokenizer may treat the start of a text differently; the
    prompt is what all of them have in common.
    """
    prompt = f"Question: {question['question'].strip()}\nAnswer:"
    texts = [prompt, *(f"{prompt} {choice.strip()}" for choice in question["choices"])]
    ids: list[list[int]] = [tokenizer(text)["input_ids"] for text in texts]
    different = (position for position, tokens in enumerate(zip(*ids, strict=False)) if len(set(tokens)) > 1)
    shared = ids[0][: next(different, len(ids[0]))]
    return Tokenized(shared, [whole[len(shared) :] for whole in ids[1:]])


def choice_log_probabilities(model: PreTrainedModel, questions: Sequence[Tokenized]) -> list[list[float]]:
    """Return the log-probability per token, in nats, of each choice of each question.

    Args:
        model: A causal language model.
        questions: Questions whose prompts are of one length.
    """
    return [[choice.per_token for choice in choices] for choices in score_batch(model, questions)]


def read_questions(file: str) -> list[Question]:
    """Return the questions of a JSON Lines file, or the project's own if the file's name is empty.

    Args:
        file: A file of rows `{"question": str, "choices": [str, …], "answer": int}`.

    Raises:
        UserError: The file is missing, empty or not UTF-8, or a row is malformed; its number is named.
    """
    path = Path(file) if file else GENERAL_KNOWLEDGE
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The choice questions cannot be read from {path}: {error}.") from error
    questions = [parse_question(line, f"{path}, row {row}") for row, line in enumerate(lines, 1) if line.strip()]
    if not questions:
        raise UserError(f"{path} is empty: expected one JSON object with `question`, `choices`, `answer` a line.")
    return questions


def parse_question(line: str, where: str) -> Question:
    """Return the question in a line of JSON.

    Raises:
        UserError: The line is malformed; the message begins with `where`.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error}.") from error
    if not isinstance(row, dict) or not {"question", "choices", "answer"} <= row.keys():
        raise UserError(f"{where} must be an object with `question`, `choices` and `answer`.")
    question, choices, answer = row["question"], row["choices"], row["answer"]
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{where}: `question` must be a text that is not empty.")
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise UserError(f"{where}: `choices` must be a list of texts that are not empty.")
    if len({choice.strip() for choice in choices}) != len(choices) or len(choices) < 2:
        raise UserError(f"{where}: `choices` must be at least two different texts.")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise UserError(f"{where}: `answer` must be the index of a choice, 0 to {len(choices) - 1}, not {answer!r}.")
    return {"question": question, "choices": choices, "answer": answer}

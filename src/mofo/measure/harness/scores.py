"""From what the harness says of each question to means over questions, and to answers that can be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.metrics import mean

from mofo.errors import UserError
from mofo.measure.mean import Mean
from mofo.measure.probe import Answer

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

LOG_PROBABILITY = "log_probability"
"""Our own number beside the harness's for tasks with choices."""


@dataclass(frozen=True)
class Column:
    """A number of a task.

    Attributes:
        name: Its name: the harness's, after that of the filter where a task has several.
        metric: The harness's name.
        filter: The harness's filter that reads the answer.
        higher_is_better: Its direction.
    """

    name: str
    metric: str
    filter: str
    higher_is_better: bool


def columns(task: ConfigurableTask) -> list[Column]:
    """Return the numbers of a task, the one that stands for it first: normalised accuracy, or else its first metric.

    Raises:
        UserError: The task has a metric that is no mean over questions.
    """
    filters = [ensemble.name for ensemble in task._filters]
    several = len(filters) > 1
    found = []
    for metric, aggregation in task.aggregation().items():
        if not _is_mean(aggregation):
            raise UserError(
                f"{task.task_name} has the metric {metric}, which is no mean over its questions: it has no standard "
                "error that could tell a change from chance."
            )
        better = bool(task.higher_is_better()[metric])
        found += [Column(f"{name} {metric}" if several else metric, metric, name, better) for name in filters]
    return sorted(found, key=lambda column: column.metric != "acc_norm")


def _is_mean(aggregation: Callable[..., Any]) -> bool:
    """Return whether a metric is a mean over questions, or over the instructions that they consist of."""
    return aggregation is mean or aggregation.__name__ == "agg_inst_level_acc"


def has_choices(task: ConfigurableTask) -> bool:
    """Return whether the answers of a task are choices, so that the right one has a probability among them."""
    return str(task.OUTPUT_TYPE) == "multiple_choice" and not task.multiple_target


def task_means(task: ConfigurableTask, samples: list[dict[str, Any]]) -> dict[str, Mean]:
    """Return the numbers of a task by their names.

    Args:
        task: The task.
        samples: What the harness logged for each question and filter.
    """
    found = {}
    for column in columns(task):
        values = [sample[column.metric] for sample in samples if sample["filter"] == column.filter]
        parts = [value if isinstance(value, list) else [value] for value in values]
        found[column.name] = Mean([float(sum(part)) for part in parts], [len(part) for part in parts])
    if has_choices(task):
        found[LOG_PROBABILITY] = Mean([_log_probability(task, sample) for sample in samples])
    return found


def _log_probability(task: ConfigurableTask, sample: dict[str, Any]) -> float:
    """Return the log-probability of the right answer among the choices, each by its log-probability per byte."""
    scores = torch.tensor([response[0][0] for response in sample["resps"]], dtype=torch.float64)
    lengths = torch.tensor([len(text.encode()) for text in task.doc_to_choice(sample["doc"])], dtype=torch.float64)
    if not task.multiple_input and "acc_norm" in task.aggregation():
        scores = scores[: len(lengths)] / lengths
    return float(scores[: len(lengths)].log_softmax(0)[_right_choice(task, sample)])


def _right_choice(task: ConfigurableTask, sample: dict[str, Any]) -> int:
    """Return the number of the right choice."""
    right = task.doc_to_text(sample["doc"]) if task.multiple_input else sample["target"]
    return right if isinstance(right, int) else task.doc_to_choice(sample["doc"]).index(right)


def task_answers(task: ConfigurableTask, samples: list[dict[str, Any]], rename: Callable[[str], str]) -> list[Answer]:
    """Return a model's answers to the questions of a task, in their order.

    Args:
        task: The task.
        samples: As for `task_means`.
        rename: Returns the name that a number of the task has in its probe.
    """
    first, *others = columns(task)
    by_filter: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        by_filter.setdefault(sample["filter"], []).append(sample)
    answers = []
    for number, sample in enumerate(by_filter[first.filter]):
        scores = {}
        for column in (first, *others):
            value = by_filter[column.filter][number][column.metric]
            scores[rename(column.name)] = float(sum(value) if isinstance(value, list) else value)
        text = task.doc_to_text(sample["doc"])
        expected, given = _texts(task, sample)
        question = text if isinstance(text, str) else " / ".join(task.doc_to_choice(sample["doc"]))
        answers.append(Answer(question, expected, given, scores))
    return answers


def _texts(task: ConfigurableTask, sample: dict[str, Any]) -> tuple[str, str]:
    """Return the right answer and the model's, as text."""
    if not has_choices(task):
        return str(sample["target"]), "\n---\n".join(str(text) for response in sample["resps"] for text in response)
    choices = task.doc_to_choice(sample["doc"])
    scores = [response[0][0] for response in sample["resps"]][: len(choices)]
    if "acc_norm" in task.aggregation():
        scores = [score / len(choice) for score, choice in zip(scores, choices, strict=True)]
    return choices[_right_choice(task, sample)], choices[scores.index(max(scores))]

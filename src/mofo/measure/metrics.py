"""What is measured besides the probes, as `results.json` describes it; probes describe themselves."""

from __future__ import annotations

from collections.abc import Mapping

from mofo.measure.scores import SCORES, Score
from mofo.results import ALL_TASKS, Metric


def sequence_metrics(tasks: Mapping[str, Score]) -> list[Metric]:
    """Return what is measured of the learning of tasks; of several also the means over all of them, which stand first.

    Args:
        tasks: By what the answers of each task are judged.
    """
    if len(tasks) == 1:
        return [metric for task, score in tasks.items() for metric in learned_metrics(task, score)]
    named = [
        metric.model_copy(update={"label": f"{task} {metric.label.removeprefix('held-out ')}", "headline": False})
        for task, score in tasks.items()
        for metric in learned_metrics(task, score)
    ]
    return [*_mean_metrics(), *named]


def learned_metrics(task: str, score: Score = SCORES["accuracy"]) -> list[Metric]:
    """Return what is measured of a task's learning: the held-out loss, and the score of generated answers."""
    return [
        Metric(
            kind="learned",
            source=task,
            name="loss",
            task=task,
            label="held-out loss",
            description="mean loss on rows of the task that were not trained on",
            unit="nats per token",
        ),
        Metric(
            kind="learned",
            source=task,
            name=score.key,
            task=task,
            label=score.label,
            description=score.description,
            unit="%",
            scale=100,
            higher_is_better=True,
            headline=False,
        ),
    ]


def _mean_metrics() -> list[Metric]:
    """Return the means over several tasks."""
    return [
        Metric(
            kind="learned",
            source=ALL_TASKS,
            name="loss",
            label="mean held-out loss",
            description="mean over all tasks of the loss on rows that were not trained on",
            unit="nats per token",
        ),
        Metric(
            kind="learned",
            source=ALL_TASKS,
            name="score",
            label="mean score",
            description="mean over all tasks of the score of generated answers",
            unit="%",
            scale=100,
            higher_is_better=True,
            headline=False,
        ),
    ]


def distance_metrics() -> list[Metric]:
    """Return what is measured of the weights: how far they moved from the base, and what share of them moved at all."""
    return [
        Metric(
            kind="distance",
            source="weights",
            name="l2",
            label="L2 distance",
            description="length of the way from the base's weights to the tuned ones",
        ),
        Metric(
            kind="distance",
            source="weights",
            name="moved",
            label="entries moved",
            description="share of the entries of the weights that differ from the base's",
            unit="%",
            scale=100,
            headline=False,
        ),
    ]

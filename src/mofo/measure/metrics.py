"""What is measured besides the probes, as `results.json` describes it; probes describe themselves."""

from __future__ import annotations

from mofo.results import Metric


def learned_metrics(task: str) -> list[Metric]:
    """Return what is measured of a task's learning: the held-out loss, and the accuracy of generated answers."""
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
            name="accuracy",
            task=task,
            label="accuracy",
            description="share of held-out problems whose generated answer is exactly right",
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

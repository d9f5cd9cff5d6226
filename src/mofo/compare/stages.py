"""The stretches of a run: its tasks one after the other, or all at once."""

from __future__ import annotations

from dataclasses import dataclass

from mofo.compare.job import Job
from mofo.compare.planned import PlannedRun
from mofo.data.tokens import Example


@dataclass(frozen=True)
class Stage:
    """A stretch of a run with a trainer of its own: one task, or all tasks at once.

    Attributes:
        task: Name of the task; None for all at once.
        rows: Its rows in the order of training.
        before: Steps of the run before it.
        steps: Its steps.
    """

    task: str | None
    rows: list[Example]
    before: int
    steps: int

    @property
    def end(self) -> int:
        """The last step of the stage, counted from the run's beginning."""
        return self.before + self.steps


def stages_of(job: Job, run: PlannedRun) -> list[Stage]:
    """Return the stages of a run in order."""
    if run.order == "joint":
        return [Stage(None, job.joint_examples(run.seed), 0, job.plan.total_steps)]
    stages: list[Stage] = []
    for task, rows, plan in zip(job.tasks, job.training_examples(run.seed), job.plan.tasks, strict=True):
        stages.append(Stage(task.name, rows, stages[-1].end if stages else 0, plan.steps))
    return stages

"""`forgetting.json`: one model on its way from the base, over the steps of a training or over shares of its change.

Written by the callbacks of `mofo.trainers` and by `mofo blend`; `mofo report` draws it from the file alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from mofo.errors import UserError, first_problem
from mofo.files import write_text
from mofo.results import Metric, Number, Outcome, Point, Record, TrainingStep

FILE_NAME = "forgetting.json"


class Mark(Record):
    """A measurement on the way."""

    at: float = Field(description="the step, or the share of the change")
    point: Point = Field(description="what was measured, with errors of the changes from the base")


class Kept(Record):
    """How a training was held within a budget of forgetting."""

    bounds: dict[str, float] = Field(description="by how much each probe was allowed to get worse, in its unit")
    way: str = Field(description="what was done to hold that: `pull`, `stop`, `slow`, `stop-pull` or `slow-pull`")
    step: int = Field(description="the last step of the training")
    planned_steps: int = Field(description="the step that was to be the last")
    share: float = Field(description="share of the change from the base that the weights were pulled back to; 1: all")
    used_before: Number = Field(description="share of the budget that was used before that; `null` if not finite")
    used: Number = Field(description="share of the budget that is used in the end; above 1 is over it")


class Forgetting(Record):
    """The whole file."""

    schema_version: Literal[1] = Field(default=1, alias="schema", description="version of this format")
    over: Literal["step", "scale"] = Field(description="what `at` of the marks is")
    model: str = Field(description="what was tuned, as readers know it")
    metrics: list[Metric] = Field(description="every number that is measured, in the order in which it is shown")
    base: Point = Field(description="the measurement of the base")
    marks: list[Mark] = Field(default=[], description="the measurements in order")
    training: list[TrainingStep] = Field(default=[], description="the training log")
    knee: float | None = Field(default=None, description="the share at the knee of the way; `null` if it has none")
    kept: Kept | None = Field(default=None, description="how a budget was held; `null` if there was none")
    seconds: Number = Field(default=None, description="what all measurements took; `null` if it was not taken")
    total_seconds: Number = Field(default=None, description="what the training took with them")
    notes: list[str] = Field(default=[], description="what a reader must know of how it was measured, a sentence each")

    @property
    def end(self) -> Point | None:
        """The last measurement: the tuned model, or how far the training has come."""
        return self.marks[-1].point if self.marks else None

    @property
    def learning(self) -> Metric | None:
        """The metric of learning that gets better from the base to the end beyond chance; None if it does not."""
        return self._first("learned", "better")

    @property
    def forgetting(self) -> Metric | None:
        """The first headline of the probes that gets worse beyond chance; None if none does."""
        return self._first("forgotten", "worse")

    def share_at(self, metric: Metric, mark: Mark) -> float | None:
        """Return the share of a metric's change from the base to the end that is there at a mark."""
        assert self.end is not None, "a mark is there"
        change, whole = metric.change(self.base, mark.point), metric.change(self.base, self.end)
        return None if change is None or not whole else change / whole

    def _first(self, kind: Literal["learned", "forgotten"], outcome: Outcome) -> Metric | None:
        if self.end is None:
            return None
        known = [metric for metric in self.metrics if metric.kind == kind and metric.headline]
        return next((metric for metric in known if metric.outcome(self.base, self.end) == outcome), None)


def find_knee(record: Forgetting) -> float | None:
    """Return the share of the change at the knee of the way from a base to a tuned model.

    With learning and forgetting as shares of what they are at the end, the way leads from (0, 0) to (1, 1). Its knee is
    the measured point that lies farthest above the straight line between these: where (share that is learned) − (share
    that is forgotten) is largest. Learning is the held-out loss, forgetting the first probe that got worse.

    Returns:
        The share; None if the end has not learned or not forgotten beyond chance, or no point lies above the line.
    """
    learning, forgetting = record.learning, record.forgetting
    if learning is None or forgetting is None:
        return None
    heights = {}
    for mark in record.marks[:-1]:
        learned, forgotten = record.share_at(learning, mark), record.share_at(forgetting, mark)
        if learned is not None and forgotten is not None:
            heights[mark.at] = learned - forgotten
    knee = max(heights, key=lambda at: heights[at], default=None)
    return knee if knee is not None and heights[knee] > 0 else None


def write_forgetting(record: Forgetting, folder: Path) -> None:
    """Write `forgetting.json` into a folder, whole or not at all."""
    write_text(folder / FILE_NAME, record.model_dump_json(by_alias=True, indent=1) + "\n")


def find_forgetting(folder: Path) -> Forgetting | None:
    """Return what `load_forgetting` does; None if the folder has no such file."""
    return load_forgetting(folder) if (folder / FILE_NAME).exists() else None


def load_forgetting(folder: Path) -> Forgetting:
    """Read and check the `forgetting.json` of a folder.

    Raises:
        UserError: It cannot be read, is of another version, or is damaged.
    """
    path = folder / FILE_NAME
    try:
        return Forgetting.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise UserError(f"{path} is damaged or of another version: {first_problem(error)}.") from error

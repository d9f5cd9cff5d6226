"""`forgetting.json`: one model on its way from the base, over the steps of a training or over shares of its change.

Written by the callbacks of `mofo.trainers` and by `mofo blend`; `mofo report` draws it from the file alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from mofo.errors import UserError, first_problem
from mofo.files import write_text
from mofo.results import Metric, Number, Point, Record, TrainingStep

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


def write_forgetting(record: Forgetting, folder: Path) -> None:
    """Write `forgetting.json` into a folder, whole or not at all."""
    write_text(folder / FILE_NAME, record.model_dump_json(by_alias=True, indent=1) + "\n")


def load_forgetting(folder: Path) -> Forgetting | None:
    """Read and check the `forgetting.json` of a folder; None if there is none.

    Raises:
        UserError: It cannot be read, is of another version, or is damaged.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    try:
        return Forgetting.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise UserError(f"{path} is damaged or of another version: {first_problem(error)}.") from error

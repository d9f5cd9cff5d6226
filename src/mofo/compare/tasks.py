"""The tasks of a recipe: what is learned, in which order, and how each is judged."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from mofo.data.forms import parse_columns
from mofo.errors import UserError
from mofo.results import ALL_TASKS, ScoreName
from mofo.settings import Settings


def _columns(value: Any) -> Any:
    """Take columns as a flag has them: `question=Prompt,answer=Reply`."""
    return parse_columns(value) if isinstance(value, str) else value


Count = Annotated[int, Field(ge=1)]
Columns = Annotated[dict[str, str], BeforeValidator(_columns)]


class TaskSettings(Settings):
    """One of the tasks of a recipe. What it leaves out is the recipe's."""

    name: str = Field(description="name of the task, in tables and figures")
    data: str = Field(description="its training data, in the forms of the recipe's `data`")
    held_out: str | None = Field(None, description="its held-out data; by default split off")
    held_out_rows: Count | None = Field(None, description="number of held-out rows")
    train_rows: Count | None = Field(None, description="use only the first N training rows")
    columns: Columns | None = Field(None, description="names of the data's fields, where they are others")
    steps: Count | None = Field(None, description="optimizer steps of the task, in place of epochs")
    epochs: float | None = Field(None, gt=0, description="passes over its training rows")
    metric: ScoreName = Field("accuracy", description="by what its generated answers are judged")
    answer_tokens: Count | None = Field(None, description="cut its answers at N tokens")

    def total_steps(self, rows: int, batch: int) -> int:
        """Return the number of optimizer steps on `rows` training rows, `batch` of them a step."""
        return self.steps or math.ceil(rows * (self.epochs or 1) / batch)


def check_tasks(tasks: tuple[TaskSettings, ...]) -> None:
    """Refuse tasks that could not be told apart, or whose length is given twice.

    Raises:
        UserError: Two tasks have one name, a task has the name of all together or none, or both steps and epochs.
    """
    names = [task.name for task in tasks]
    for task in tasks:
        if task.name in ("", ALL_TASKS):
            raise UserError(f"A task is named {task.name!r}: give it another name.")
        if names.count(task.name) > 1:
            raise UserError(f"Two tasks are named {task.name}: give each a name of its own.")
        if task.steps is not None and task.epochs is not None:
            raise UserError(f"The task {task.name} has both steps and epochs: give one of them.")

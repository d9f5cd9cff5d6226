"""What a training began with, for those that go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from mofo.errors import UserError
from mofo.files import write_text
from mofo.processes import from_first, rank
from mofo.results import Record
from mofo.trainers.watch import weights_digest

if TYPE_CHECKING:
    from torch import nn

FILE = "beginning.json"


class Beginning(Record):
    """What a training began with.

    Attributes:
        base: A name for the base, told by its weights: those of a resumed training are the base's no more.
        steps: Optimizer steps that it was to take; None if nobody knew. Who resumes may add some.
    """

    base: str
    steps: int | None


def beginning_of(model: nn.Module, folder: Path, step: int, planned: int | None) -> Beginning:
    """Return what a training began with, where its model is seen only after a checkpoint has been loaded.

    Args:
        model: The model, in all processes that train it.
        folder: Where this is kept for those who resume.
        step: Steps that the model has been trained for; at 0 it is the base.
        planned: Steps that it is to be trained for.

    Raises:
        UserError: The training is resumed, and there is nothing in the folder.
    """
    file = folder / FILE
    if step:
        text = from_first(file.read_text(encoding="utf-8") if file.is_file() else "")
        try:
            return Beginning.model_validate_json(text)
        except ValidationError as error:
            raise UserError(
                f"The training cannot go on: {file}, which says what it began with, is not there or damaged; resume in "
                "the folder in which it began, or start anew."
            ) from error
    found = Beginning(base=weights_digest(model)[:16], steps=planned)
    if rank() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, found.model_dump_json())
    return found

"""A name for the base of a training, for the files that were made from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mofo.errors import UserError
from mofo.files import write_text
from mofo.processes import from_first, rank
from mofo.trainers.watch import weights_digest

if TYPE_CHECKING:
    from torch import nn

FILE = "base"
"""File with the name of the base that a training began with."""


def base_name(model: nn.Module, folder: Path, step: int) -> str:
    """Return a name for the base where the model is seen only after its checkpoint has been loaded.

    It is told by the base's weights, and kept in a file for those who resume: their weights are the base's no more.

    Args:
        model: The model, in all processes that train it.
        folder: Where the file is.
        step: Steps that the model has been trained for; at 0 it is the base.

    Raises:
        UserError: The training is resumed, and the file is not there.
    """
    file = folder / FILE
    if step:
        name = from_first(file.read_text(encoding="utf-8") if file.is_file() else "")
        if not name:
            raise UserError(
                f"The training cannot go on: {file}, which names its base, is not there; resume in the folder in which "
                "it began, or start anew."
            )
        return name
    name = weights_digest(model)[:16]
    if rank() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, name)
    return name

"""Where trainings leave their models: the last one, and the checkpoints on the way to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from mofo.errors import UserError
from mofo.models.adapter import CONFIG


class TunedModel(NamedTuple):
    """A tuned model and its checkpoints; models as for `mofo.models.load.load_model`.

    Attributes:
        name: What readers call it: the name of its folder, or of the run that made it.
        model: The model.
        checkpoints: Its checkpoints by their steps, ascending.
    """

    name: str
    model: str
    checkpoints: dict[int, str]


def find_tuned(spec: str) -> TunedModel:
    """Return the model that a user means.

    Args:
        spec: A model as for `mofo.models.load.resolve_model`, an adapter, or the folder of a run, as `mofo compare`
            makes it in `runs/`, with the model in `model/`. Checkpoints are folders `checkpoint-N` beside that or in
            the folder of the model, as trainers leave them.

    Raises:
        UserError: The folder is that of a run whose model was not kept, or of a whole comparison.
    """
    folder = Path(spec).expanduser()
    if not folder.is_dir() or _is_model(folder):
        return TunedModel(_name(spec), spec, _checkpoints(folder))
    if _is_model(folder / "model"):
        return TunedModel(folder.resolve().name, str(folder / "model"), _checkpoints(folder))
    if (folder / "run.json").is_file():
        raise UserError(f"The run {spec} kept no model: run its comparison with --save all or points.")
    if (folder / "runs").is_dir():
        raise UserError(f"{spec} is a whole comparison: give one of its runs, such as {folder / 'runs'}/NAME.")
    return TunedModel(_name(spec), spec, {})  # whoever loads it says what is wrong


def _name(spec: str) -> str:
    path = Path(spec).expanduser().resolve()
    return path.parent.name if path.name == "model" else path.name


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / CONFIG).is_file()


def _checkpoints(folder: Path) -> dict[int, str]:
    found = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.glob("checkpoint-*")]
    return {step: str(path) for step, path in sorted((int(m[1]), path) for m, path in found if m and _is_model(path))}

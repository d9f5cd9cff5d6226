"""What a command of trl trains for. Each objective is a file of this folder: `sft`, `dpo`, `grpo`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from trl import ScriptArguments

    from mofo.data.forms import Form, Row
    from mofo.trainers.trl.arguments import Arguments


@dataclass(frozen=True)
class Objective:
    """One command of trl, and what `mofo` must know of it.

    Attributes:
        name: Its name, as trl's and ours.
        config: trl's flags of the training.
        script_arguments: trl's flags of the script.
        trainer: The trainer that trl's script makes.
        script: trl's script, a function of four groups of flags.
        forms: The forms in which rows may come.
        known_to_trl: Fields of the forms that trl reads from the Hub itself.
        write_rows: Checks rows and writes a file of what trl is to read; returns its path.
        description: What the help says first.
        example: The command that the help shows.
        notes: Returns sentences on the file of rows, for the user.
        counts_tokens: Whether the trainer sees tokens in the rows, and can count them.
        check: Completes and checks flags that this objective alone has.
    """

    name: str
    config: type[Any]
    script_arguments: type[ScriptArguments]
    trainer: type[Any]
    script: Callable[..., None]
    forms: tuple[Form, ...]
    known_to_trl: tuple[tuple[str, ...], ...]
    write_rows: Callable[[list[Row], str, Arguments], Path]
    description: str
    example: str
    counts_tokens: bool = True
    notes: Callable[[Path, Any], list[str]] = lambda file, training: []
    check: Callable[[Arguments], None] = lambda args: None

    @property
    def command(self) -> str:
        """The command, for messages."""
        return f"mofo {self.name}"


def find_objective(name: str) -> Objective:
    """Return the objective of a name; its trainer is imported, which takes seconds."""
    found: Objective = import_module(f"mofo.trainers.trl.{name}").OBJECTIVE
    return found

"""`mofo.json` and `mofo_log.jsonl`: what a model was trained from, how, and how that went; beside its weights.

`mofo sft`, `dpo` and `grpo` write them with every checkpoint and with the model, and `mofo report` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from mofo.errors import UserError, first_problem
from mofo.files import write_files
from mofo.results import Number, Record

FILE_NAME = "mofo.json"
LOG_NAME = "mofo_log.jsonl"


class LogEntry(Record):
    """A line of the log: a step at which the trainer logged."""

    step: int = Field(description="optimizer steps taken")
    epoch: Number = Field(default=None, description="passes over the rows so far")
    tokens: int | None = Field(default=None, description="tokens trained on so far, padding left out")
    loss: Number = Field(default=None, description="training loss, the mean since the entry before")
    held_out_loss: Number = Field(default=None, description="loss on the rows that are held out, where there are any")
    learning_rate: Number = Field(default=None, description="learning rate of this step")
    selected: Number = Field(default=None, description="share of the entries that MoFO selects")
    moved: Number = Field(default=None, description="share of the entries whose value changed in this step")
    overlap: Number = Field(default=None, description="of those, the share that changed in the step before, too")
    distance: Number = Field(default=None, description="L2 distance of the trained parameters from the base's")
    margin: Number = Field(default=None, description="implicit reward of chosen less that of rejected, in nats")
    preferred: Number = Field(default=None, description="of preferences: share of pairs whose margin is positive")
    reward: Number = Field(default=None, description="mean reward of the answers that the model wrote")
    kl: Number = Field(
        default=None, description="estimated KL divergence from the reference model, where beta is not 0"
    )


class Training(Record):
    """The training of a model, up to where its weights are."""

    schema_version: Literal[1] = Field(default=1, alias="schema", description="version of this format")
    objective: str = Field(default="sft", description="what was trained for: sft, dpo or grpo, as trl's commands")
    base: str = Field(description="the model before, as its user named it")
    data: str = Field(description="the rows, as their user named them")
    method: str = Field(description="optimizer and extras joined by +, as `--method` takes them")
    label: str = Field(description="what readers call the method")
    settings: dict[str, dict[str, Any]] = Field(description="all settings of the method, by part")
    arguments: dict[str, Any] = Field(description="all other settings, by the names of trl's flags")
    steps: int = Field(description="optimizer steps taken")
    planned_steps: int = Field(description="optimizer steps of the whole training")
    rows: int | None = Field(description="rows to train on, packed if `packing` is on; `null` where they were streamed")
    epochs: float = Field(description="passes over the rows")
    tokens: int = Field(description="tokens trained on, padding left out")
    versions: dict[str, str] = Field(description="of mofo, Python and the libraries it ran on")
    record: str = Field(default=LOG_NAME, description="the file of the log, beside this one")


def write_training(training: Training, log: Sequence[LogEntry], folder: Path) -> None:
    """Write both files into the folder of a model, whole or not at all."""
    lines = "".join(entry.model_dump_json(exclude_unset=True) + "\n" for entry in log)
    described = training.model_dump_json(by_alias=True, indent=1) + "\n"
    write_files(folder, {FILE_NAME: described.encode(), LOG_NAME: lines.encode()})


def load_training(folder: Path) -> tuple[Training, list[LogEntry]]:
    """Read both files.

    Raises:
        UserError: A file is missing, unreadable or damaged.
    """
    try:
        training = Training.model_validate_json((folder / FILE_NAME).read_bytes())
        lines = (folder / training.record).read_text(encoding="utf-8").splitlines()
        return training, [LogEntry.model_validate_json(line) for line in lines]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{folder / LOG_NAME} is not UTF-8: it is damaged.") from None
    except ValidationError as error:
        raise UserError(f"{folder / FILE_NAME} or its log is damaged: {first_problem(error)}.") from None

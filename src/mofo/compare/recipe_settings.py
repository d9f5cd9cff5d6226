"""The settings of a recipe, in the groups in which `mofo compare --help` shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mofo.compare.tasks import Columns, Count, TaskSettings
from mofo.data.rows import EMBEDDED_DATA
from mofo.models.embedded import EMBEDDED_MODEL
from mofo.results import Order
from mofo.settings import Settings


def _as_list(value: Any) -> Any:
    """Let a single value stand for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def _entry(value: Any) -> Any:
    """Check the form of an entry of `methods`; its parts and settings are checked when it is expanded."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, dict) and value.keys() - OWN.keys():
        return value
    raise ValueError(f"methods has {value!r}, expected a method's name or a mapping from parts to their settings")


Names = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
Orders = Annotated[tuple[Order, ...], BeforeValidator(_as_list), Field(min_length=1)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, le=2**32 - 1)], ...], BeforeValidator(_as_list), Field(min_length=1)]
Entries = Annotated[
    tuple[Annotated[str | dict[str, Any], BeforeValidator(_entry)], ...], BeforeValidator(_as_list), Field(min_length=1)
]


class Data(Settings):
    """Model and data."""

    model: str = Field(EMBEDDED_MODEL, description="base model: hub id, folder or .gguf file")
    data: str = Field(
        EMBEDDED_DATA,
        description="training data: file, folder or pattern of .jsonl, .json, .csv, .parquet or .arrow files, "
        "hub id[:config] or reasoning-gym:FAMILY",
    )
    held_out: str | None = Field(None, description="held-out data in the same forms; by default split off")
    held_out_rows: Count = Field(100, description="number of held-out rows")
    train_rows: Count | None = Field(None, description="use only the first N training rows")
    columns: Columns = Field(
        {}, description="names of the data's fields, where they are others: question=Prompt,answer=Reply"
    )
    turns: Literal["all", "last"] = Field("all", description="turns of the assistant that are learned")
    max_length: int = Field(1024, ge=2, description="truncate rows to N tokens")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")


class Methods(Settings):
    """Methods.

    Several values of a setting make a grid, and each of its points a run.
    """

    methods: Entries = Field(
        ("adamw", "mofo"), description="methods to compare: optimizers, each with extras joined by +"
    )
    settings: dict[str, Any] = Field(
        {}, description="settings of every method that has them; several values are an axis of the grid"
    )
    seeds: Seeds = Field((0,), description="seeds of the runs; they decide the order of the data")
    tune: bool = Field(
        False, description="double and halve each method's learning rates until its best is inside, then use all seeds"
    )
    reference: str | None = Field(
        None, description="method to compare the others with; by default adamw, else the first"
    )


class Tasks(Settings):
    """Several tasks.

    They are a list in a recipe file, `tasks`, and learned one after the other.
    Where it is missing, the data are the only task.
    """

    tasks: tuple[TaskSettings, ...] = Field(
        (), description="tasks in place of the data: name, data, and what differs from the recipe's settings"
    )
    order: Orders = Field(
        ("sequence",), description="tasks one after the other, all at once (joint), or each alone, from the base on"
    )
    optimizer_state: Literal["reset", "keep"] = Field(
        "reset", description="what becomes of the optimizer's state where a task begins"
    )


class Training(Settings):
    """Training."""

    steps: Count | None = Field(None, description="optimizer steps of a task, in place of epochs")
    epochs: float | None = Field(None, gt=0, description="passes over the training rows; 1 if neither is given")
    batch_size: Count = Field(8, description="rows of a batch")
    gradient_accumulation: Count = Field(1, description="batches of an optimizer step")
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        "cosine", description="learning-rate schedule"
    )
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    max_grad_norm: float = Field(1.0, gt=0, description="clip gradients to this norm")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="precision of the computation")
    weights: Literal["float32", "bfloat16"] = Field(
        "float32", description="precision of the weights; bfloat16 takes half the memory and computes in bfloat16"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations to save memory")
    save: Literal["best", "all", "points", "none"] = Field(
        "best",
        description="tuned models to keep: of each method the one with the lowest held-out loss, all, all and those of "
        "each measurement on their way (points), or none",
    )


class Measuring(Settings):
    """Measuring."""

    points: Count = Field(4, description="measurements along each task, the last at its end")
    probes: Annotated[Names, Field(min_length=1)] = Field(
        ("text", "divergence", "choice"),
        description="measures of forgetting; also text:FILE.txt, choice:FILE.jsonl and harness:TASK (mofo probes)",
    )
    end_probes: Names = Field((), description="the same, but of the base and at the end of each run only")
    learned: str | None = Field(
        None, description="measure learning by this probe, such as harness:gsm8k@200, in place of the held-out loss"
    )
    harness_data: str | None = Field(
        None, description="folder with the rows of harness tasks; by default they come from the Hub"
    )
    allow_code_execution: bool = Field(False, description="run code that the model writes, for tasks of programming")
    answers: int = Field(
        0, ge=0, description="held-out questions of a task to answer, before training and after each task"
    )
    answer_tokens: Count = Field(256, description="cut answers at N tokens")
    samples: int = Field(
        3, ge=0, description="held-out prompts whose answers are shown, with two general questions; 0 for none"
    )


GROUPS: tuple[type[Settings], ...] = (Data, Methods, Tasks, Training, Measuring)
"""The groups of settings; the docstring of each is the heading of its flags."""

OWN: dict[str, type[Settings]] = {"seeds": Methods, "tune": Methods, "order": Tasks}
"""What an entry of `methods` can have of its own beside its parts, and the group that the setting is of."""

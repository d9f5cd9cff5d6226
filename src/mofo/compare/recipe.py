"""A recipe: everything that decides a comparison, in one file, so that it can be made again."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from mofo.compare.tasks import Columns, Count, TaskSettings, check_tasks
from mofo.data.rows import EMBEDDED_DATA, GENERATED
from mofo.errors import UserError, closest, first_problem
from mofo.methods.method import Entry, Method, check_settings, expand, refuse_unused, unused_settings
from mofo.models.embedded import EMBEDDED_MODEL
from mofo.results import MethodInfo, Order
from mofo.settings import Settings

if TYPE_CHECKING:
    from mofo.measure.probe import Options


def _as_list(value: Any) -> Any:
    """Let a single value stand for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def _entry(value: Any) -> Any:
    """Check the form of an entry of `methods`; its parts and settings are checked when it is expanded."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, dict) and value.keys() - {"seeds", "order"}:
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

GRID = ("methods", "settings", "seeds", "tune", "reference", "order", "harness_data")
"""What may grow or move in a finished output folder; all else must stay for its runs to be comparable."""

RENAMED = {
    "learning_rates": "settings.learning_rate",
    "fractions": "settings.fraction",
    "weight_decay": "settings.weight_decay",
}
"""Former names of settings, and what they are called now."""


ORDERS: dict[Order, str] = {"sequence": "", "joint": "all tasks at once", "alone": "each task alone"}
"""The orders of tasks, as the report names them beside a method."""


@dataclass(frozen=True)
class PlannedRun:
    """A run of a recipe: a method, a seed, and the order in which it meets the tasks."""

    method: Method
    seed: int
    order: Order = "sequence"

    @property
    def name(self) -> str:
        """The run's name, which is also its folder's."""
        return "-".join([self.method.run_name, *self._suffix, f"s{self.seed}"])

    @property
    def method_name(self) -> str:
        """Name of the method, with the order of the tasks if it is not the usual one."""
        return "-".join([self.method.name, *self._suffix])

    @property
    def method_info(self) -> MethodInfo:
        """The method, with the order of the tasks, as `results.json` has it."""
        info = self.method.info
        label = ", ".join(filter(None, [info.label, ORDERS[self.order]]))
        return info.model_copy(update={"label": label, "order": self.order})

    @property
    def _suffix(self) -> list[str]:
        return [] if self.order == "sequence" else [self.order]


class Recipe(Measuring, Training, Tasks, Methods, Data):  # fields come in the reverse order
    """What a comparison does. Each field is a key of a recipe file and a flag of `mofo compare`."""

    def runs(self) -> list[PlannedRun]:
        """Return every run, none twice: for each seed all points of the grid of each entry of `methods`."""
        runs = [
            PlannedRun(method, seed, order)
            for entry in self.methods
            for order in _own(entry, "order", self.order)
            for seed in _own(entry, "seeds", self.seeds)
            for method in expand(_method_alone(entry), self.settings)
        ]
        return list({run.name: run for run in runs}.values())

    def reference_method(self) -> str:
        """Return the name of the method that the others are held against."""
        names = [run.method_name for run in sorted(self.runs(), key=lambda run: run.order != "sequence")]
        if self.reference is not None and self.reference not in names:
            raise UserError(
                f"reference is {self.reference!r}, expected one of the methods: {', '.join(dict.fromkeys(names))}."
            )
        return self.reference or ("adamw" if "adamw" in names else names[0])

    @property
    def sequence(self) -> tuple[TaskSettings, ...]:
        """The tasks in their order, with all that they take from the recipe; where it has none, its data are one."""
        if self.tasks:
            return tuple(self._completed(task) for task in self.tasks)
        source = re.sub(r":[\w.-]+$", "", self.data.removeprefix(GENERATED))  # without a hub data set's configuration
        only = {"name": Path(source).stem, "data": self.data, "held_out": self.held_out}
        return (self._completed(TaskSettings.model_validate(only)),)

    def _completed(self, task: TaskSettings) -> TaskSettings:
        """Return a task with the recipe's values in place of those that it leaves out."""
        inherited = ["held_out_rows", "train_rows", "columns", "answer_tokens"]
        if task.steps is None and task.epochs is None:
            inherited += ["steps", "epochs"]
        missing = {name: getattr(self, name) for name in inherited if getattr(task, name) is None}
        return task.model_copy(update=missing)

    @property
    def options(self) -> Options:
        """What holds for all probes."""
        from mofo.measure.probe import Options

        folder = Path(self.harness_data).expanduser() if self.harness_data else None
        return Options(folder, self.allow_code_execution)

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step."""
        return self.batch_size * self.gradient_accumulation

    def point_steps(self, total: int) -> list[int]:
        """Return the steps after which a task of `total` steps is measured: evenly spaced, the last at the end."""
        points = min(self.points, total)
        return [math.ceil(total * (i + 1) / points) for i in range(points)]

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values, for YAML and JSON."""
        return self.model_dump(mode="json")

    def changes(self, earlier: Recipe) -> list[str]:
        """Return what differs from an earlier recipe beyond the grid, one clause each."""
        before, now = earlier.to_dict(), self.to_dict()
        changed = [name for name in now if now[name] != before[name] and name not in GRID]
        return [f"{name} was {before[name]!r}, is {now[name]!r}" for name in changed]


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """Build a recipe from a file's or the command line's values and check every one of them.

    Raises:
        UserError: A name is unknown, a value has the wrong type or is out of range, or a setting of methods decides
            nothing.
    """
    for name in values:
        if name in RENAMED:
            raise UserError(f"A recipe's {name} is now {RENAMED[name]}, as in `settings: {{learning_rate: [1e-4]}}`.")
        if name not in Recipe.model_fields:
            known = Recipe.model_fields
            raise UserError(f"A recipe has no {name!r}{closest(name, known)}: it knows {', '.join(known)}.")
    if isinstance(values.get("save"), bool):
        raise UserError("A recipe's save is no longer true or false: give best, all or none.")
    try:
        recipe = Recipe(**values)
    except ValidationError as error:
        raise UserError(f"{first_problem(error)}.") from None
    if recipe.steps is not None and recipe.epochs is not None:
        raise UserError("Both steps and epochs are given: give one of them.")
    if recipe.weights == "bfloat16" and recipe.precision == "float32":
        raise UserError("weights are bfloat16 and precision is float32: leave precision out, or keep float32 weights.")
    _check_sequence(recipe)
    check_settings(recipe.settings)
    recipe.reference_method()  # expands every entry, and so checks it
    entries = [_method_alone(entry) for entry in recipe.methods]
    for key in unused_settings(entries, recipe.settings):
        refuse_unused(key, entries)
    for run in recipe.runs():
        needy = next((part for part in run.method.parts if part.remembers_tasks), None)
        if needy and (len(recipe.sequence) == 1 or run.order != "sequence"):
            raise UserError(
                f"{needy.name} keeps what earlier tasks taught, and {run.name} has none: give the recipe several tasks "
                "in sequence, or leave the part out."
            )
        single = next((part for part in run.method.parts if part.single_task), None)
        if single and len(recipe.sequence) > 1:
            raise UserError(f"{single.name} is for one task, and the recipe has several: leave the part out.")
    return recipe


def _check_sequence(recipe: Recipe) -> None:
    """Refuse tasks that cannot be told apart, and settings that decide nothing with the tasks there are."""
    check_tasks(recipe.tasks)
    for name in ("data", "held_out") if recipe.tasks else ():
        if getattr(recipe, name) != Recipe.model_fields[name].default:
            raise UserError(f"Both {name} and tasks are given: leave {name} out, or make it one of the tasks.")
    if recipe.learned and len(recipe.tasks) > 1:
        raise UserError("learned measures one task, and the recipe has several: leave learned out.")
    orders = [order for entry in recipe.methods for order in _own(entry, "order", recipe.order)]
    if len(recipe.tasks) < 2 and set(orders) != {"sequence"}:
        raise UserError("order is given, but there is only one task: give the recipe several tasks, or leave it out.")


def override(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe file's values with changes from the command line, which win over them.

    `settings` are merged name by name; those of the file that the changes leave without effect are dropped. Steps and
    epochs exclude each other, so one of them replaces the other.

    Args:
        values: The values of a recipe file.
        changes: Values for some names.

    Raises:
        UserError: The file's own values are no recipe.
    """
    file = make_recipe(values)
    given = changes.get("settings", {})
    methods = changes.get("methods", [_without_own(entry, changes) for entry in file.methods])
    settings = {key: value for key, value in file.settings.items() if key.rpartition(".")[2] not in given} | given
    unused = unused_settings([_method_alone(entry) for entry in methods], settings)
    settings = {key: value for key, value in settings.items() if key in given or key not in unused}
    length = {"steps", "epochs"}
    replaced = {"settings", *(length if length & changes.keys() else ())}
    kept = {name: value for name, value in values.items() if name not in replaced}
    return kept | dict(changes) | {"methods": methods} | ({"settings": settings} if settings else {})


def _without_own(entry: Entry, changes: Mapping[str, Any]) -> Entry:
    """Return an entry of a file without the settings and seeds that the command line gives for all of them."""
    if isinstance(entry, str):
        return entry
    given = changes.get("settings", {})
    return {
        part: {key: value for key, value in own.items() if key not in given and f"{part}.{key}" not in given}
        if isinstance(own, dict)
        else own
        for part, own in entry.items()
        if part not in OWN or part not in changes
    }


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Return the values of a YAML recipe file.

    Raises:
        UserError: The file is missing or is not a YAML mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"The recipe {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"The recipe {path} is not a mapping of settings: see a recipe.yaml that mofo compare wrote.")
    return values


OWN: dict[str, type[Settings]] = {"seeds": Methods, "order": Tasks}
"""What an entry of `methods` can have of its own beside its parts, and the group that the setting is of."""


def _own(entry: Entry, name: str, default: Any) -> Any:
    """Return a setting of an entry of `methods`, which may have its own."""
    if isinstance(entry, str) or name not in entry:
        return default
    try:
        return getattr(OWN[name].model_validate({name: entry[name]}), name)
    except ValidationError as error:
        raise UserError(f"methods has an entry of its own {name}: {first_problem(error)}.") from None


def _method_alone(entry: Entry) -> Entry:
    """Return an entry of `methods` without what is not of its parts."""
    if isinstance(entry, str):
        return entry
    if "method" in entry:
        raise UserError(
            f"methods has {dict(entry)}, in a form of earlier versions: write {{mofo: {{learning_rate: 1e-4}}, "
            "seeds: [0]}, a mapping from parts to their settings."
        )
    return {name: values for name, values in entry.items() if name not in OWN}

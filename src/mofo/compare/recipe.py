"""A recipe: everything that decides a comparison, in one file, so that it can be made again."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mofo.compare.entry import method_alone, own_setting, without_own
from mofo.compare.planned import PlannedRun
from mofo.compare.recipe_settings import Data, Measuring, Methods, Tasks, Training
from mofo.compare.tasks import TaskSettings, check_tasks
from mofo.data.rows import GENERATED
from mofo.errors import UserError, closest, first_problem
from mofo.methods.method import check_settings, expand, refuse_unused, unused_settings

if TYPE_CHECKING:
    from mofo.measure.probe import Options


GRID = ("methods", "settings", "seeds", "tune", "reference", "order", "harness_data")
"""What may grow or move in a finished output folder; all else must stay for its runs to be comparable."""

RENAMED = {
    "learning_rates": "settings.learning_rate",
    "fractions": "settings.fraction",
    "weight_decay": "settings.weight_decay",
}
"""Former names of settings, and what they are called now."""


class Recipe(Measuring, Training, Tasks, Methods, Data):  # fields come in the reverse order
    """What a comparison does. Each field is a key of a recipe file and a flag of `mofo compare`."""

    def runs(self) -> list[PlannedRun]:
        """Return every run, none twice: for each seed all points of the grid of each entry of `methods`."""
        runs = [
            PlannedRun(method, seed, order, own_setting(entry, "tune", self.tune))
            for entry in self.methods
            for order in own_setting(entry, "order", self.order)
            for seed in own_setting(entry, "seeds", self.seeds)
            for method in expand(method_alone(entry), self.settings)
        ]
        return list({run.name: run for run in runs}.values())

    @property
    def tunes(self) -> bool:
        """Whether the learning rates of any method are tuned, so that not all runs are known beforehand."""
        return any(run.tune for run in self.runs())

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
    entries = [method_alone(entry) for entry in recipe.methods]
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
    orders = [order for entry in recipe.methods for order in own_setting(entry, "order", recipe.order)]
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
    methods = changes.get("methods", [without_own(entry, changes) for entry in file.methods])
    settings = {key: value for key, value in file.settings.items() if key.rpartition(".")[2] not in given} | given
    unused = unused_settings([method_alone(entry) for entry in methods], settings)
    settings = {key: value for key, value in settings.items() if key in given or key not in unused}
    length = {"steps", "epochs"}
    replaced = {"settings", *(length if length & changes.keys() else ())}
    kept = {name: value for name, value in values.items() if name not in replaced}
    return kept | dict(changes) | {"methods": methods} | ({"settings": settings} if settings else {})


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

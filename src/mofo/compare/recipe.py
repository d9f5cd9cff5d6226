"""A recipe: everything that decides a comparison, in one file, so that it can be made again."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mofo.data.rows import EMBEDDED_DATA
from mofo.errors import UserError
from mofo.methods.method import get_method
from mofo.models.load import EMBEDDED_MODEL

GRID = ("learning_rates", "fractions", "seeds")
"""The settings that a method's own entry may replace, and that may grow in a finished output folder."""

SCHEDULES = ("cosine", "linear", "constant", "constant_with_warmup")
"""transformers' names of the learning-rate schedules that need nothing else."""


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Run:
    """One fine-tuning: a method with its settings and a seed."""

    method: str
    learning_rate: float
    fraction: float | None
    seed: int

    @property
    def name(self) -> str:
        """The run's name, which is also its folder's."""
        fraction = "" if self.fraction is None else f"-f{self.fraction:g}"
        return f"{self.method}{fraction}-lr{self.learning_rate:g}-s{self.seed}"

    @property
    def settings(self) -> dict[str, float]:
        """The settings that are the method's own, as results.json has them."""
        fraction = {} if self.fraction is None else {"fraction": self.fraction}
        return {"learning_rate": self.learning_rate, **fraction}


@dataclass(frozen=True)
class Recipe:
    """What a comparison does. Each field is a flag of `mofo compare` and a key of a recipe file."""

    model: str = _option(EMBEDDED_MODEL, "the base: hub id, folder, .gguf file, or smollm2-135m")
    data: str = _option(
        EMBEDDED_DATA,
        "training data: .jsonl, .json, .csv, .parquet, hub id[:config], or reasoning-gym:FAMILY",
    )
    held_out: str | None = _option(None, "held-out data in the same forms; by default rows are split off the data")
    held_out_rows: int = _option(100, "number of held-out rows")
    train_rows: int | None = _option(None, "use only the first so many training rows")
    methods: tuple[Any, ...] = _option(("adamw", "mofo"), "methods to compare")
    learning_rates: tuple[float, ...] = _option((1e-4,), "learning rates, each tried with each method")
    fractions: tuple[float, ...] = _option((0.15,), "update fractions, each tried with each method that has one")
    seeds: tuple[int, ...] = _option((0,), "seeds; a seed decides the order of the data")
    steps: int | None = _option(None, "optimizer steps (in place of epochs)")
    epochs: float | None = _option(None, "passes over the training rows; 1 if steps are not given either")
    batch_size: int = _option(8, "rows a step on the device at once")
    gradient_accumulation: int = _option(1, "such batches a step")
    max_length: int = _option(1024, "longer rows are cut at so many tokens")
    schedule: str = _option("cosine", "learning-rate schedule: cosine, linear, constant or constant_with_warmup")
    warmup: float = _option(0.03, "part of the steps in which the learning rate rises, from 0 to below 1")
    weight_decay: float = _option(0.0, "decoupled weight decay")
    max_grad_norm: float = _option(1.0, "gradients are clipped to this norm")
    precision: str = _option("auto", "auto, float32 or bfloat16 (autocast; the weights stay float32)")
    gradient_checkpointing: bool = _option(False, "trade time for memory in the backward pass")
    points: int = _option(4, "measurements along each run, the last at its end")
    probes: tuple[str, ...] = _option(
        ("text", "divergence", "choice"), "what measures forgetting; also text:FILE.txt and choice:FILE.jsonl"
    )
    answers: int = _option(0, "held-out problems to answer by generating, for exact-match accuracy (base and end)")
    answer_tokens: int = _option(256, "the most tokens of a generated answer")
    save: bool = _option(True, "keep each tuned model")
    trust_remote_code: bool = _option(False, "let code that comes with the model run")

    def runs(self) -> list[Run]:
        """All fine-tunings of the recipe: for each method, fraction, learning rate and seed."""
        runs = []
        for entry in self.methods:
            own = {"method": entry} if isinstance(entry, str) else entry
            grid = {name: tuple(own.get(name, getattr(self, name))) for name in GRID}
            fractions = grid["fractions"] if get_method(own["method"]).uses_fraction else (None,)
            runs += [
                Run(own["method"], rate, fraction, seed)
                for seed in grid["seeds"]
                for fraction in fractions
                for rate in grid["learning_rates"]
            ]
        return list(dict.fromkeys(runs))

    def total_steps(self, rows: int) -> int:
        """The number of optimizer steps of each run on ``rows`` training rows."""
        return self.steps or math.ceil(rows * (self.epochs or 1) / (self.batch_size * self.gradient_accumulation))

    def point_steps(self, total: int) -> list[int]:
        """The steps after which a run of ``total`` steps is measured: evenly spaced, the last one at the end."""
        points = min(self.points, total)
        return [math.ceil(total * (i + 1) / points) for i in range(points)]

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, for YAML and JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def without_grid(self) -> dict[str, Any]:
        """What two recipes must share for their runs to be comparable in one folder."""
        return {k: v for k, v in self.to_dict().items() if k not in ("methods", *GRID)}


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """Builds a recipe from a file's or the command line's values and checks every one of them.

    Raises:
        UserError: A name is unknown, or a value has the wrong type or is out of range.
    """
    hints = typing.get_type_hints(Recipe)
    unknown = [name for name in values if name not in hints]
    if unknown:
        raise UserError(f"A recipe has no {', '.join(map(repr, unknown))}: it knows {', '.join(hints)}.")
    recipe = Recipe(**{name: _typed(name, value, hints[name]) for name, value in values.items()})
    _check(recipe)
    return recipe


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The values of a YAML recipe file.

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


def _typed(name: str, value: Any, hint: Any) -> Any:
    """``value`` as the type ``hint``; YAML reads 1e-4 as a string, and a single value may stand for a list of one."""
    if isinstance(hint, types.UnionType):
        return None if value is None else _typed(name, value, typing.get_args(hint)[0])
    if typing.get_origin(hint) is tuple:
        values = value if isinstance(value, list | tuple) else [value]
        if name == "methods":
            return tuple(_method_entry(v) for v in values)
        return tuple(_typed(name, v, typing.get_args(hint)[0]) for v in values)
    try:
        if hint is bool and not isinstance(value, bool):
            raise ValueError
        if hint is int and (isinstance(value, bool) or int(value) != float(value)):
            raise ValueError
        return hint(value)
    except (TypeError, ValueError):
        raise UserError(f"{name} is {value!r}, expected {_TYPE_NAMES[hint]}.") from None


_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _method_entry(entry: Any) -> str | dict[str, Any]:
    if isinstance(entry, str):
        return entry
    if not isinstance(entry, dict) or "method" not in entry or not entry.keys() <= {"method", *GRID}:
        raise UserError(
            f"methods has {entry!r}, expected a method's name or a mapping of method and any of {', '.join(GRID)}."
        )
    hints = typing.get_type_hints(Recipe)
    return {name: v if name == "method" else list(_typed(name, v, hints[name])) for name, v in entry.items()}


def _check(recipe: Recipe) -> None:
    if recipe.steps is not None and recipe.epochs is not None:
        raise UserError("Both steps and epochs are given: give one of them.")
    for name in ("steps", "batch_size", "gradient_accumulation", "points", "held_out_rows", "train_rows"):
        value = getattr(recipe, name)
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}, expected at least 1.")
    if recipe.epochs is not None and not 0 < recipe.epochs < math.inf:
        raise UserError(f"epochs is {recipe.epochs}, expected a number above 0.")
    if recipe.max_length < 2:
        raise UserError(f"max_length is {recipe.max_length}, expected at least 2 tokens.")
    if recipe.answers < 0 or recipe.answer_tokens < 1:
        raise UserError("answers must be 0 or more and answer_tokens 1 or more.")
    if recipe.precision not in ("auto", "float32", "bfloat16"):
        raise UserError(f"precision is {recipe.precision!r}, expected auto, float32 or bfloat16.")
    if recipe.schedule not in SCHEDULES:
        raise UserError(f"schedule is {recipe.schedule!r}, expected one of {', '.join(SCHEDULES)}.")
    if not 0 <= recipe.warmup < 1:
        raise UserError(f"warmup is {recipe.warmup}, expected a part of the steps from 0 to below 1.")
    if not recipe.weight_decay >= 0 or not recipe.max_grad_norm > 0:
        raise UserError("weight_decay must be 0 or more and max_grad_norm above 0.")
    if not recipe.methods:
        raise UserError("methods is empty: name at least one.")
    for name in GRID:
        if not getattr(recipe, name):
            raise UserError(f"{name} is empty: give at least one value.")
    for run in recipe.runs():  # names an unknown method
        if not 0 < run.learning_rate < math.inf:
            raise UserError(f"A learning rate is {run.learning_rate}, expected a number above 0.")
        if run.fraction is not None and not 0 < run.fraction <= 1:
            raise UserError(f"A fraction is {run.fraction}, expected a number above 0 and at most 1.")

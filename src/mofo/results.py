"""`results.json`: what a comparison measured. These classes write the file, read it and document it.

The file describes itself: it names methods, settings and metrics as readers know them, with units and with the
direction in which each metric is better, so that the report needs to know none of them.
"""

from __future__ import annotations

import math
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mofo.errors import UserError, first_problem
from mofo.files import write_text

SCHEMA = 2
FILE_NAME = "results.json"


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A measured number; None (`null`) where it was not measured, or is infinite or NaN because the run diverged."""

Scalar = bool | int | float | str


class Record(BaseModel):
    """A part of `results.json`: fields are checked, and unknown ones refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Metric(Record):
    """One number that is measured at every point, and how to show it."""

    kind: Literal["learned", "forgotten", "distance"] = Field(description="which part of a point holds the number")
    source: str = Field(description="name of the task or probe that gives it; `weights` for a distance")
    name: str = Field(description="key of the number in that part of the point, such as `loss`")
    task: str | None = Field(None, description="the task whose learning it measures; `null` for probes and distances")
    label: str = Field(description="what readers call it")
    unit: str = Field("", description="unit in which it is shown")
    scale: float = Field(1.0, description="factor from the number in the file to the unit in which it is shown")
    higher_is_better: bool = Field(False, description="whether a larger number is better")
    headline: bool = Field(True, description="whether it stands for its probe in verdicts and short tables")

    def of(self, point: Point) -> float | None:
        """Return the number at a point; None if it was not measured there or is not finite."""
        if self.kind == "distance":
            return getattr(point.distance, self.name) if point.distance else None
        part = point.learned if self.kind == "learned" else point.forgotten
        return part.get(self.source, {}).get(self.name)

    def change(self, base: Point, point: Point) -> float | None:
        """Return how much worse a point is than the base, in the file's unit: positive is worse.

        A distance is itself a change from the base. None if one of the two numbers is missing.
        """
        after = self.of(point)
        if self.kind == "distance" or after is None:
            return after
        before = self.of(base)
        if before is None:
            return None
        return before - after if self.higher_is_better else after - before


class Distance(Record):
    """How far all parameters have moved from the base."""

    l2: Number = Field(description="Euclidean norm of tuned minus base")
    moved: Number = Field(description="share of entries whose value differs from the base's")


class LayerDistance(Distance):
    """How far one layer has moved."""

    layer: str = Field(description="index of a decoder layer, or the module outside of them, such as `embed_tokens`")
    parameters: int = Field(description="number of entries of the layer")


class FinalDistance(Distance):
    """Distance from the base at the end of training."""

    relative: Number = Field(None, description="`l2` divided by the Euclidean norm of the base")
    layers: list[LayerDistance] = Field([], description="the same per layer, in the order of the model")


class Point(Record):
    """One measurement of the model: of the base, or along a run."""

    step: int = Field(description="optimizer steps taken; 0 for the base")
    tokens: int | None = Field(None, description="training tokens seen")
    task: str | None = Field(None, description="the task that was being trained; `null` for the base")
    learned: dict[str, dict[str, Number]] = Field(description="per task its metrics: held-out `loss`, `accuracy`")
    forgotten: dict[str, dict[str, Number]] = Field(description="per probe its metrics")
    distance: Distance | None = Field(None, description="distance from the base; `null` for the base itself")


class TrainingStep(Record):
    """An entry of the training log."""

    step: int = Field(description="optimizer steps taken")
    loss: Number = Field(description="training loss, the mean since the entry before")
    learning_rate: Number = Field(None, description="learning rate of this step")


class Seconds(Record):
    """Where the time of a run went, in seconds, resumed sessions included."""

    optimizer: Number = Field(None, description="inside the optimizer's steps; a part of `training`")
    training: Number = Field(None, description="training steps")
    measuring: Number = Field(None, description="all points")
    total: Number = Field(None, description="the run as a whole")


class Run(Record):
    """One fine-tuning: a method with its settings and a seed."""

    name: str = Field(description="name of the run, unique in the file")
    method: str = Field(description="key of its method in `methods`")
    settings: dict[str, Scalar] = Field(description="its settings by their keys in `settings`")
    seed: int = Field(description="decides the order of the data and all else that is drawn")
    points: list[Point] = Field(description="measurements in order of steps; the last is the end of training")
    training: list[TrainingStep] = Field([], description="the training log")
    distance: FinalDistance | None = Field(None, description="distance from the base at the end of training")
    seconds: Seconds | None = Field(None, description="where the time went")
    peak_memory_bytes: int | None = Field(None, description="most memory the process (CPU) or the GPU held")


class MethodInfo(Record):
    """A way to fine-tune, as the report shows it."""

    label: str = Field(description="what readers call it")
    parts: list[str] = Field(description="the optimizer and the extras that it is composed of")


class SettingInfo(Record):
    """A setting of methods, as the report shows it."""

    label: str = Field(description="what readers call it")
    description: str = Field("", description="what it means")


class Task(Record):
    """A task that is learned."""

    name: str = Field(description="key of its metrics in the points")
    data: str = Field(description="where its rows come from")


class Plan(Record):
    """What was decided before the first run."""

    total_steps: int = Field(description="optimizer steps of each run")
    training_rows: int = Field(description="rows that can be trained on")
    held_out_rows: int = Field(description="rows that are measured")
    precision: str = Field(description="`float32` or `bfloat16`, in which the model computes")


class Hardware(Record):
    """The machine."""

    processor: str = Field(description="name of the processor")
    cores: int | None = Field(description="number of cores")
    memory_bytes: int = Field(description="main memory in bytes")
    device: Literal["cpu", "cuda"] = Field(description="where the model computed")
    gpu: str | None = Field(None, description="name of the GPU")


class Results(Record):
    """The whole file."""

    schema_version: Literal[2] = Field(SCHEMA, alias="schema", description="version of this format")
    complete: bool = Field(False, description="`false` while runs of the recipe are missing or under way")
    model: str = Field(description="the base")
    tasks: list[Task] = Field(description="what is learned, in order")
    recipe: dict[str, Any] = Field(description="everything that decides the runs")
    plan: Plan | None = Field(None, description="what was decided before the first run")
    versions: dict[str, str] = Field({}, description="of mofo, Python and the libraries that trained and measured")
    hardware: Hardware | None = Field(None, description="the machine")
    reference: str | None = Field(description="key of the method that the others are held against")
    methods: dict[str, MethodInfo] = Field(description="the methods of the recipe by name, in its order")
    settings: dict[str, SettingInfo] = Field(description="the settings of the methods by name")
    metrics: list[Metric] = Field(description="every number that is measured, in the order in which it is shown")
    base: Point = Field(description="the measurement of the pre-trained model")
    runs: list[Run] = Field(description="one entry per method, setting and seed")


def write_results(results: Results, folder: Path) -> None:
    """Write `results.json` into an output folder, whole or not at all."""
    write_text(folder / FILE_NAME, results.model_dump_json(by_alias=True, indent=1) + "\n")


def load_results(folder: str | Path) -> Results:
    """Read and check the `results.json` of an output folder; those of an unfinished comparison are accepted.

    Raises:
        UserError: The file is missing, unreadable, not JSON, of another schema, or damaged.
    """
    path = Path(folder) / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give the output folder of a `mofo compare` run.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    try:
        found = _SchemaOnly.model_validate_json(text).schema_version
        if found != SCHEMA:
            raise UserError(
                f"{path} has schema {found!r}, and this version of mofo reads schema {SCHEMA}: make the comparison "
                "again, or draw it with the version of mofo that wrote it."
            )
        results = Results.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{path} is damaged: {first_problem(error)}. Run the command that made it again.") from None
    if not results.tasks or any(results.base.learned.get(task.name, {}).get("loss") is None for task in results.tasks):
        raise UserError(f"{path} has no finite held-out loss of the base, so nothing can be compared with it.")
    return results


class _SchemaOnly(BaseModel):
    schema_version: Any = Field(None, alias="schema")


def document() -> str:
    """Return `docs/results.md`: every class of the file with its fields, types and meanings."""
    lines = [
        "# results.json",
        "",
        "What `mofo compare` measured, one file per output folder. `mofo report` draws tables, figures and the page",
        "from it alone. Losses and divergences are in nats per token, times in seconds, shares between 0 and 1; a number",
        "that was not measured, or is not finite because a run diverged, is `null`.",
        "",
        "*Forgotten* is the change of a probe's metric from the base, with the sign that makes worse positive.",
        "",
        "This page is made from `src/mofo/results.py` by `make docs`.",
    ]
    for record in (
        Results, Task, Plan, Hardware, MethodInfo, SettingInfo, Metric, Point, Distance, Run, TrainingStep,
        FinalDistance, LayerDistance, Seconds,
    ):  # fmt: skip
        lines += ["", f"## {record.__name__}", (record.__doc__ or "").splitlines()[0], ""]
        lines += ["| field | type | meaning |", "|---|---|---|"]
        lines += [
            f"| `{field.alias or name}` | {_type_name(field.annotation)} | {field.description} |"
            for name, field in record.model_fields.items()
        ]
    return "\n".join(lines) + "\n"


def _type_name(annotation: Any) -> str:
    """Return a field's type in words that a reader of JSON knows."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is list:
        return f"list of {_type_name(arguments[0])}"
    if origin is dict:
        return f"object of {_type_name(arguments[1])}"
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type_name(argument) for argument in arguments)
    names = {float: "number", int: "integer", str: "text", bool: "boolean", type(None): "`null`", Any: "any"}
    return names.get(annotation) or f"[{annotation.__name__}](#{annotation.__name__.lower()})"


if __name__ == "__main__":
    print(document(), end="")

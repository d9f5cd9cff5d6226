"""`results.json`: what a comparison measured. These classes write the file and read it.

The file describes itself: it names methods, settings and metrics as readers know them, with units and with the
direction in which each metric is better, so that the report needs to know none of them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mofo.errors import UserError, first_problem
from mofo.files import write_text

SCHEMA = 2
FILE_NAME = "results.json"


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A measured number; None (`null`) where it was not measured, or is infinite or NaN because the run diverged."""

Scalar = bool | int | float | str

ALL_TASKS = "all tasks"
"""Key of the means over tasks in `Point.learned`, where there are several."""

ScoreName = Literal["accuracy", "choice", "rouge-l", "edit-similarity"]
"""By what the generated answers of a task can be judged."""

Order = Literal["sequence", "joint", "alone"]
"""How a run meets its tasks: one after the other, all at once, or each by itself, beginning with the base."""


Outcome = Literal["worse", "better", "unchanged", "unclear"]

MARGIN = 0.05
"""Share of questions whose loss a measurement must be able to rule out before it says that nothing was lost."""


class Record(BaseModel):
    """A part of `results.json`: fields are checked, and unknown ones refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Metric(Record):
    """One number that is measured at every point, and how to show it."""

    kind: Literal["learned", "forgotten", "distance"] = Field(description="which part of a point holds the number")
    source: str = Field(description="name of the task or probe that gives it; `weights` for a distance")
    name: str = Field(description="key of the number in that part of the point, such as `loss`")
    task: str | None = Field(default=None, description="the task whose learning it measures; `null` for all else")
    label: str = Field(description="what readers call it")
    description: str = Field(default="", description="what it is, in one line")
    unit: str = Field(default="", description="unit in which it is shown; empty if it needs none")
    scale: float = Field(default=1.0, description="factor from the number in the file to the unit in which it is shown")
    higher_is_better: bool = Field(default=False, description="whether a larger number is better")
    headline: bool = Field(
        default=True,
        description="whether it stands for its task or probe in verdicts and short tables; the first headline that is "
        "learned is the one by which learning is compared",
    )

    def of(self, point: Point) -> float | None:
        """Return the number at a point; None if it was not measured there or is not finite."""
        if self.kind == "distance":
            return point.distance.number(self.name) if point.distance else None
        part = point.learned if self.kind == "learned" else point.forgotten
        return part.get(self.source, {}).get(self.name)

    def error(self, point: Point) -> float | None:
        """Return the standard error of the number at a point; None if it has none."""
        return point.errors.of(self)

    def change_error(self, point: Point) -> float | None:
        """Return the standard error of the number's change from the base; None if it has none."""
        return point.change_errors.of(self)

    def paired(self, point: Point) -> Paired | None:
        """Return the same questions before and after; None if they were not compared one by one."""
        parts = {"learned": point.paired.learned, "forgotten": point.paired.forgotten}
        return parts.get(self.kind, {}).get(self.source, {}).get(self.name)

    def worse_interval(self, point: Point) -> tuple[float, float] | None:
        """Return the 95 % interval of how much worse a point is than the base, in the file's unit; None without one."""
        paired = self.paired(point)
        if paired is None or paired.low is None or paired.high is None:
            return None
        return (-paired.high, -paired.low) if self.higher_is_better else (paired.low, paired.high)

    def outcome(self, base: Point, point: Point) -> Outcome | None:
        """Return whether a point is worse or better than the base beyond chance; None if a number is missing.

        Where questions are right or wrong, the exact test on those that changed and the interval decide. If these show
        no change, but a loss of more than `MARGIN` would lie within the interval, there are too few questions: the
        outcome is unclear. All else is unchanged within two standard errors.
        """
        change, paired = self.change(base, point), self.paired(point)
        if change is None:
            return None
        direction: Outcome = "worse" if change > 0 else "better"
        if paired is None or paired.lost is None:
            return "unchanged" if abs(change) <= 2 * (self.change_error(point) or 0.0) else direction
        if paired.is_significant:
            return direction
        interval = self.worse_interval(point)
        return "unclear" if interval is not None and interval[1] > MARGIN else "unchanged"

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

    def number(self, name: str) -> float | None:
        """Return the number of that name; None if there is none, or it is not finite."""
        return {"l2": self.l2, "moved": self.moved}.get(name)


class LayerDistance(Distance):
    """How far one layer has moved."""

    layer: str = Field(description="index of a decoder layer, or the module outside of them, such as `embed_tokens`")
    parameters: int = Field(description="number of entries of the layer")


class FinalDistance(Distance):
    """Distance from the base at the end of training."""

    relative: Number = Field(default=None, description="`l2` divided by the Euclidean norm of the base")
    layers: list[LayerDistance] = Field(default=[], description="the same per layer, in the order of the model")


class Errors(Record):
    """Standard errors of numbers of a point, by the names that the numbers have there; those without are left out."""

    learned: dict[str, dict[str, Number]] = Field(default={}, description="per task")
    forgotten: dict[str, dict[str, Number]] = Field(default={}, description="per probe")

    def of(self, metric: Metric) -> float | None:
        """Return the error of a metric's number; None if there is none."""
        parts = {"learned": self.learned, "forgotten": self.forgotten}
        return parts.get(metric.kind, {}).get(metric.source, {}).get(metric.name)


class Paired(Record):
    """A number of a probe whose questions, windows or texts were compared one by one with the base's."""

    units: int = Field(description="number of questions, windows or texts")
    low: Number = Field(description="lower end of the 95 % interval of the change, after minus before")
    high: Number = Field(description="upper end")
    lost: int | None = Field(
        default=None, description="questions that were right before and are wrong; `null` where none is right or wrong"
    )
    won: int | None = Field(default=None, description="questions that were wrong before and are right")
    p: Number = Field(default=None, description="two-sided p-value of McNemar's exact test on these")
    lost_questions: list[int] = Field(default=[], description="numbers of the lost questions, at the end of a run")
    won_questions: list[int] = Field(default=[], description="numbers of the won questions, at the end of a run")

    @property
    def is_significant(self) -> bool:
        """Whether the change is beyond chance: its interval lies on one side of 0, and so says McNemar's test."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return False
        return self.p is None or self.p < 0.05

    def counts_only(self) -> Paired:
        """Return it without the numbers of the questions."""
        return self.model_copy(update={"lost_questions": [], "won_questions": []})


class Pairings(Record):
    """What was compared question by question, by the names that the numbers have in the point."""

    learned: dict[str, dict[str, Paired]] = Field(default={}, description="per task")
    forgotten: dict[str, dict[str, Paired]] = Field(default={}, description="per probe")

    def counts_only(self) -> Pairings:
        """Return it without the numbers of the questions."""
        return Pairings(
            **{
                kind: {
                    source: {name: paired.counts_only() for name, paired in numbers.items()}
                    for source, numbers in sources.items()
                }
                for kind, sources in (("learned", self.learned), ("forgotten", self.forgotten))
            }
        )


class Point(Record):
    """One measurement of the model: of the base, or along a run."""

    step: int = Field(description="optimizer steps taken; 0 for the base")
    tokens: int | None = Field(default=None, description="training tokens seen")
    task: str | None = Field(
        default=None, description="the task that was being trained; `null` for the base, and where all were at once"
    )
    learned: dict[str, dict[str, Number]] = Field(
        description="per task its metrics: held-out `loss`, `accuracy`, `rouge_l` or `edit_similarity`; where there "
        "are several tasks, also their means under `all tasks`: `loss` and `score`"
    )
    forgotten: dict[str, dict[str, Number]] = Field(description="per probe its metrics")
    errors: Errors = Field(default=Errors(), description="standard errors of these numbers")
    change_errors: Errors = Field(
        default=Errors(), description="standard errors of their changes from the base, question by question"
    )
    paired: Pairings = Field(default=Pairings(), description="what was compared with the base question by question")
    distance: Distance | None = Field(default=None, description="distance from the base; `null` for the base itself")


class TrainingStep(Record):
    """An entry of the training log."""

    step: int = Field(description="optimizer steps taken")
    loss: Number = Field(description="training loss, the mean since the entry before")
    learning_rate: Number = Field(default=None, description="learning rate of this step")


class Seconds(Record):
    """Where the time of a run went, in seconds, resumed sessions included."""

    optimizer: Number = Field(default=None, description="inside the optimizer's steps; a part of `training`")
    training: Number = Field(default=None, description="training steps")
    measuring: Number = Field(default=None, description="all points")
    total: Number = Field(default=None, description="the run as a whole")


class Sample(Record):
    """A prompt that the base and every tuned model answered greedily."""

    prompt: str = Field(description="the prompt, as the model saw it")
    expected: str | None = Field(default=None, description="the answer in the data; `null` for a general question")
    answer: str = Field(description="the base's answer, cut where it did not end")


class Run(Record):
    """One fine-tuning: a method with its settings and a seed.

    Runs that differ in their seed alone are repetitions: the report shows their mean and standard deviation.
    """

    name: str = Field(description="name of the run, unique in the file")
    method: str = Field(description="key of its method in `methods`")
    settings: dict[str, Scalar] = Field(description="its settings by their keys in `settings`")
    seed: int = Field(description="seed of the order of the data and of everything else that is drawn")
    points: list[Point] = Field(description="measurements in order of steps; the last is the end of training")
    ended_at: int | None = Field(
        default=None, description="the step at which the method ended it before its plan did; else `null`"
    )
    training: list[TrainingStep] = Field(default=[], description="the training log")
    distance: FinalDistance | None = Field(default=None, description="distance from the base at the end of training")
    samples: list[str] = Field(default=[], description="its answers to the prompts of the file's `samples`")
    model: str | None = Field(default=None, description="path of the tuned model in the output folder, if it was kept")
    command: str | None = Field(default=None, description="flags of `mofo compare` that make this run alone")
    seconds: Seconds | None = Field(default=None, description="where the time went; `null` if it was not taken")
    peak_memory_bytes: int | None = Field(default=None, description="most memory that the process (CPU) or GPU held")


class MethodInfo(Record):
    """A way to fine-tune, as the report shows it."""

    label: str = Field(description="what readers call it")
    parts: list[str] = Field(description="the optimizer and the extras that it is composed of")
    order: Order = Field(
        default="sequence",
        description="how it meets the tasks: one after the other; all at once (`joint`), an upper bound; or each "
        "`alone`, beginning with the base",
    )


class SettingInfo(Record):
    """A setting of methods, as the report shows it."""

    label: str = Field(description="what readers call it")
    description: str = Field(default="", description="what it means")
    is_rate: bool = Field(default=False, description="whether it is a learning rate, to be tuned for every method")


class Task(Record):
    """A task that is learned."""

    name: str = Field(description="key of its metrics in the points")
    data: str = Field(description="where its rows come from")


class TaskPlan(Record):
    """What was decided for one task."""

    steps: int = Field(description="optimizer steps of the task")
    training_rows: int = Field(description="rows that can be trained on")
    held_out_rows: int = Field(description="rows that are measured")


class Plan(Record):
    """What was decided before the first run."""

    total_steps: int = Field(description="optimizer steps of each run")
    training_rows: int = Field(description="rows that can be trained on")
    held_out_rows: int = Field(description="rows that are measured")
    precision: str = Field(description="`float32` or `bfloat16`, in which the model computes")
    rows: dict[str, int] = Field(
        default={},
        description="number of rows that are not used as they are, by reason, such as `training rows cut at "
        "max_length`",
    )
    tasks: list[TaskPlan] = Field(default=[], description="the same for each task; absent in files of one task")

    @model_validator(mode="before")
    @classmethod
    def _fill_tasks(cls, values: Any) -> Any:
        """Let a plan of one task, as files have it that know no others, be a list of one."""
        counts = {"steps": "total_steps", "training_rows": "training_rows", "held_out_rows": "held_out_rows"}
        if isinstance(values, dict) and not values.get("tasks") and all(name in values for name in counts.values()):
            return values | {"tasks": [{key: values[name] for key, name in counts.items()}]}
        return values


class Hardware(Record):
    """The machine."""

    processor: str = Field(description="name of the processor")
    cores: int | None = Field(description="number of cores")
    memory_bytes: int = Field(description="main memory in bytes")
    device: Literal["cpu", "cuda"] = Field(description="where the model computed")
    gpu: str | None = Field(default=None, description="name of the GPU")


class Results(Record):
    """The whole file."""

    schema_version: Literal[2] = Field(default=2, alias="schema", description="version of this format")
    complete: bool = Field(default=False, description="`false` while runs of the recipe are missing or under way")
    missing: list[str] = Field(
        default=[],
        description="names of the planned runs that are not finished; where learning rates are tuned, more may follow",
    )
    model: str = Field(description="the base")
    tasks: list[Task] = Field(description="what is learned, in order")
    recipe: dict[str, Any] = Field(description="everything that decides the runs")
    plan: Plan | None = Field(default=None, description="what was decided before the first run")
    versions: dict[str, str] = Field(default={}, description="of mofo, Python and the libraries it ran on")
    hardware: Hardware | None = Field(default=None, description="the machine")
    reference: str | None = Field(description="key of the method that the others are compared with, if it is there")
    methods: dict[str, MethodInfo] = Field(description="the methods of the recipe by name, in its order")
    settings: dict[str, SettingInfo] = Field(description="the settings of the methods by name")
    metrics: list[Metric] = Field(description="every number that is measured, in the order in which it is shown")
    base: Point = Field(description="the measurement of the pre-trained model")
    samples: list[Sample] = Field(default=[], description="prompts with the base's answers, to be read")
    questions: dict[str, dict[str, dict[int, str]]] = Field(
        default={}, description="per probe and metric the texts of questions that a run lost or won, by their numbers"
    )
    runs: list[Run] = Field(description="one entry per method, combination of settings and seed")

    @property
    def learning(self) -> Metric:
        """The metric by which learning is compared: the first headline that is learned."""
        return next(m for m in self.metrics if m.kind == "learned" and m.headline)

    @model_validator(mode="after")
    def _check(self) -> Results:
        if not any(m.kind == "learned" and m.headline for m in self.metrics):
            raise ValueError("metrics has no headline that is learned, such as a held-out loss")
        names = [run.name for run in self.runs]
        if len(set(names)) < len(names):
            raise ValueError(f"runs has two of the name {max(names, key=names.count)!r}")
        for run in self.runs:
            if run.method not in self.methods:
                raise ValueError(f"methods lacks {run.method!r}, the method of the run {run.name!r}")
            if missing := run.settings.keys() - self.settings.keys():
                raise ValueError(f"settings lacks {min(missing)!r}, a setting of the run {run.name!r}")
        return self


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
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist: give the output folder of a `mofo compare` that has measured its base, of "
            "`mofo sft`, or of a training that was watched."
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        found = _Version.model_validate_json(content).schema_version
        if found != SCHEMA:
            raise UserError(
                f"{path} has schema {found!r}, and this version of mofo reads schema {SCHEMA}: make the comparison "
                "again, or draw it with the version of mofo that wrote it."
            )
        results = Results.model_validate_json(content)
    except ValidationError as error:
        raise UserError(f"{path} is damaged: {first_problem(error)}. Run the command that made it again.") from None
    if results.learning.of(results.base) is None:
        raise UserError(f"{path} has no finite {results.learning.label} of the base, so nothing can be compared.")
    return results


class _Version(BaseModel):
    schema_version: Any = Field(default=None, alias="schema")

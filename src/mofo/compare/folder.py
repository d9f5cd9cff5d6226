"""The output folder of a comparison: what lies where, and its files as types.

- `recipe.yaml`: what to do
- `plan.json`: what was decided before the first job
- `data/N/`: the rows of the Nth task, training and held out
- `base.json`: the base, measured
- `probes.json`: what the probes must remember
- `shared/`: what the methods keep of the base
- `runs/NAME/`: one folder a run
- `answers/`: what the base answered to the questions of probes; those of a run lie in its folder
- `logs/`: what each job printed
- `results.json`: everything that was measured

Without `data/`, `shared/` and `runs/` a folder can still be resumed: finished runs are in `results.json`.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from mofo.compare.planned import PlannedRun
from mofo.compare.recipe import Recipe, make_recipe, read_recipe
from mofo.files import read_json, write_json
from mofo.measure.measured import Units
from mofo.methods.method import make_method
from mofo.results import FILE_NAME, Metric, Plan, Point, Record, Run, Sample, load_results

LEARNED = "learned"
"""Under which states, answers and questions of the probe of learning are kept; one of forgetting may have its name."""

BASE_JOB = "base"
"""Name of the job that measures the base; all others are named after their runs."""

ALONE = "--alone"
"""Tells a job that no `mofo compare` waits for it, so that it must not end with its input."""

REFUSED = "mofo: "
"""How the line of a job's log begins that says why the input cannot be used."""


def answers_in(folder: Path) -> Path:
    """Return where in the folder of a comparison, or of a run, the answers to the questions of probes lie."""
    return folder / "answers"


class BaseResult(Record):
    """What the base's job found: its point, the metrics of its numbers, their units, and its answers to the samples."""

    metrics: list[Metric]
    point: Point
    units: dict[str, Units] = Field(default={})
    samples: list[Sample] = Field(default=[])


class RunResult(Record):
    """What a run's job found: the run, and a run for each variant that its parts made after training."""

    runs: list[Run]


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @property
    def metrics(self) -> Path:
        """JSON lines of what was measured so far."""
        return self.path / "metrics.jsonl"

    def checkpoints(self, spread: str = "") -> Path:
        """Return the trainers' folder, which has one for each task; gone when the run is done.

        Args:
            spread: How the run is spread over processes; another way could not go on from the same checkpoint.
        """
        return self.path / "-".join(filter(None, ["checkpoints", spread]))

    def drop_checkpoints(self) -> None:
        """Remove all checkpoints."""
        for folder in self.path.glob("checkpoints*"):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def parts(self) -> Path:
        """What the method's parts keep."""
        return self.path / "parts"

    @property
    def model(self) -> Path:
        """The tuned model."""
        return self.path / "model"

    def model_at(self, step: int) -> Path:
        """Return where the model after a step is kept, if the recipe wants it."""
        return self.path / f"checkpoint-{step}"

    @property
    def result(self) -> RunResult | None:
        """The result; None while there is none."""
        file = self.path / "result.json"
        return RunResult.model_validate(read_json(file)) if file.exists() else None

    def write_result(self, result: RunResult) -> None:
        """Write the result, which ends the run."""
        write_json(self.path / "result.json", result.model_dump(mode="json"))

    @property
    def run(self) -> PlannedRun:
        """What to do."""
        spec = read_json(self.path / "run.json")
        return PlannedRun(make_method(spec["method"]), spec["seed"], spec.get("order", "sequence"))

    def write_run(self, run: PlannedRun) -> None:
        """Make the folder, and write what is to be done."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "run.json", {"method": run.method.to_dict(), "seed": run.seed, "order": run.order})


@dataclass(frozen=True)
class OutputFolder:
    """The folder of a comparison."""

    path: Path

    @property
    def is_prepared(self) -> bool:
        """Whether `mofo compare` made it."""
        return (self.path / "plan.json").exists()

    @property
    def recipe_file(self) -> Path:
        """The recipe as YAML."""
        return self.path / "recipe.yaml"

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return make_recipe(read_recipe(self.recipe_file))

    @property
    def plan(self) -> Plan:
        """What was decided before the first job."""
        return Plan.model_validate(read_json(self.path / "plan.json"))

    def write_plan(self, plan: Plan) -> None:
        """Write what was decided before the first job."""
        write_json(self.path / "plan.json", plan.model_dump(mode="json"))

    def training_rows(self, task: int) -> Path:
        """Return the file of the rows to train on, as JSON lines; tasks count from 0."""
        return self._rows(task) / "train.jsonl"

    def held_out_rows(self, task: int) -> Path:
        """Return the file of the rows to measure, as JSON lines; tasks count from 0."""
        return self._rows(task) / "held_out.jsonl"

    def _rows(self, task: int) -> Path:
        return self.path / "data" / str(task + 1)

    @property
    def probe_states(self) -> dict[str, Any] | None:
        """What the probes must remember, by probe; None before the base's job has begun."""
        file = self.path / "probes.json"
        return read_json(file) if file.exists() else None

    def write_probe_states(self, states: dict[str, Any]) -> None:
        """Write what the probes must remember."""
        write_json(self.path / "probes.json", states)

    @property
    def base(self) -> BaseResult | None:
        """The base as it was measured; None before that."""
        file = self.path / "base.json"
        return BaseResult.model_validate(read_json(file)) if file.exists() else None

    def write_base(self, base: BaseResult) -> None:
        """Write the base's measurement."""
        write_json(self.path / "base.json", base.model_dump(mode="json"))

    def take_base(self, other: OutputFolder) -> None:
        """Take the base's measurement, and what methods keep of it, from another comparison, if this one has none."""
        if self.base is None and other.base is not None:
            if other.shared.exists():
                shutil.copytree(other.shared, self.shared, copy_function=_link, dirs_exist_ok=True)
            self.write_probe_states(other.probe_states or {})
            self.write_base(other.base)

    @property
    def shared(self) -> Path:
        """What the parts of all runs share, such as text that the base wrote."""
        return self.path / "shared"

    def run(self, name: str) -> RunFolder:
        """Return the folder of a run."""
        return RunFolder(self.path / "runs" / name)

    @property
    def begun_runs(self) -> list[str]:
        """Names of the runs that have a folder."""
        return sorted(folder.name for folder in (self.path / "runs").glob("*"))

    @property
    def finished_runs(self) -> dict[str, list[Run]]:
        """Each finished run by its name, and after it the variants that its parts made of its end."""
        finished: dict[str, list[Run]] = {}
        if (self.path / FILE_NAME).exists():
            for run in load_results(self.path).runs:
                name = next((name for name in finished if run.name.startswith(f"{name}-")), run.name)
                finished.setdefault(name, []).append(run)
        for name in self.begun_runs:
            result = self.run(name).result
            if result is not None:
                finished[name] = result.runs
        return finished

    def log(self, job: str) -> Path:
        """Return the file of what a job prints."""
        folder = self.path / "logs"
        folder.mkdir(exist_ok=True)
        return folder / f"{job}.txt"


def _link(source: str, target: str) -> None:
    """Make a second name for a file that is never written again, or a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)

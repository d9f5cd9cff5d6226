"""What is shown of jobs that work in other processes: a bar for each, read from the files that they write."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from mofo.files import read_jsonl


class Progress:
    """Bars with rate and time left on ``console``, and a line for each measurement.

    Args:
        console: Where to show.
        folder: The output folder.
        runs: Names of the runs that are still to be done.
        steps: Optimizer steps of each run.
    """

    def __init__(self, console: Console, folder: Path, runs: list[str], steps: int) -> None:
        self.folder = folder
        self.steps = steps
        self.bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.runs = runs
        self.tasks: dict[str, TaskID] = {}
        self.seen: dict[str, int] = {}
        self.done_steps: dict[str, int] = {}

    def __enter__(self) -> Progress:
        self.bars.start()
        if self.runs:
            self.all = self.bars.add_task("all runs", total=len(self.runs) * self.steps, rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def start(self, name: str) -> None:
        """Shows the job ``name``."""
        if name == "base":
            self.tasks[name] = self.bars.add_task("measuring the base", total=None, rate="")
        else:
            self.tasks[name] = self.bars.add_task(name, total=self.steps, rate="")
            self.seen[name] = len(self._rows(name))

    def update(self, name: str) -> None:
        """Reads what the job ``name`` has written since the last call."""
        rows = self._rows(name)
        if not rows:
            return
        for row in rows[self.seen[name] :]:
            if row["kind"] == "point":
                self.bars.console.print(_point_line(name, row, self.steps), highlight=False)
        self.seen[name] = len(rows)
        self.done_steps[name] = max(row["step"] for row in rows)
        task = self.bars.tasks[self.bars.task_ids.index(self.tasks[name])]
        rate = f"{task.speed:.2f} steps/s" if task.speed else ""
        self.bars.update(self.tasks[name], completed=self.done_steps[name], rate=rate)
        self.bars.update(self.all, completed=sum(self.done_steps.values()))

    def finish(self, name: str) -> None:
        """Takes the job's bar away."""
        self.update(name)
        self.bars.remove_task(self.tasks.pop(name))

    def _rows(self, name: str) -> list[dict[str, Any]]:
        return read_jsonl(self.folder / "runs" / name / "metrics.jsonl")


def _point_line(name: str, row: dict[str, Any], steps: int) -> str:
    probes = ", ".join(f"{probe} {next(iter(values.values())):.4g}" for probe, values in row["forgotten"].items())
    return f"{name}: step {row['step']}/{steps}, held-out loss {row['learned']['loss']:.4f}, {probes}"

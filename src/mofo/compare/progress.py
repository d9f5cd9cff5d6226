"""Progress bars for jobs that run in other processes, read from the files that they write."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from types import TracebackType

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

from mofo.compare.folder import OutputFolder
from mofo.compare.measuring import read_progress
from mofo.compare.recorder import LoggedStep, Measurement
from mofo.results import Metric, Point

STEPS_TO_FORETELL = 5
"""Steps after which the time that all will take is known well enough."""


class Progress:
    """A bar for each job with rate and time left, and a line for each measurement.

    Args:
        console: Where to show.
        folder: The output folder.
    """

    def __init__(self, console: Console, folder: OutputFolder) -> None:
        self.folder = folder
        self.steps = folder.plan.total_steps
        self.runs: list[str] = []
        self.bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.all_runs: TaskID | None = None
        self.jobs: dict[str, TaskID] = {}
        self.read_so_far: dict[str, int] = {}  # bytes of each run's file
        self.done_steps: dict[str, int] = {}
        self.first_logged: tuple[float, int] | None = None  # the time and the steps of the first that were seen
        self.foretold = False

    def __enter__(self) -> Progress:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def expect(self, names: list[str]) -> None:
        """Count runs that are still to be done; those that are counted already are not counted twice."""
        self.runs += [name for name in names if name not in self.runs]
        total = len(self.runs) * self.steps
        if self.all_runs is None:
            self.all_runs = self.bars.add_task("all runs", total=total, rate="")
        self.bars.update(self.all_runs, total=total)

    def start(self, name: str) -> None:
        """Show a job once it has a log, which one in a cluster's queue has not; nothing of an earlier session."""
        text, total = (name, self.steps) if name in self.runs else ("measuring the base", None)
        self.jobs[name] = self.bars.add_task(text, total=total, rate="", start=False, visible=False)
        if name in self.runs:
            self._new_rows(name)

    def update(self, name: str) -> None:
        """Show what a job has written since the last call."""
        bar = self.bars.tasks[self.bars.task_ids.index(self.jobs[name])]
        if not bar.started and self.folder.log(name).exists():
            self.bars.start_task(bar.id)
            self.bars.update(bar.id, visible=True)
        if name not in self.runs:
            measuring = read_progress(self.folder.path)
            if measuring is not None:
                self.bars.update(self.jobs[name], completed=measuring.done, total=measuring.total, rate=measuring.text)
            return
        for row in self._new_rows(name):
            if isinstance(row, Measurement):
                self.bars.console.print(self._line(name, row.point), highlight=False)
            self.done_steps[name] = row.point.step if isinstance(row, Measurement) else row.step
        rate = f"{bar.speed:.2f} steps/s" if bar.speed else ""
        measuring = read_progress(self.folder.run(name).path)
        rate = measuring.text if measuring else rate
        self.bars.update(self.jobs[name], completed=self.done_steps.get(name, 0), rate=rate)
        if self.all_runs is not None:
            self.bars.update(self.all_runs, completed=sum(self.done_steps.values()))
        self._foretell(sum(self.done_steps.values()))

    def _foretell(self, done: int) -> None:
        """Say once, after the first steps, how long the training of all runs will take."""
        if self.foretold or not done:
            return
        if self.first_logged is None:
            self.first_logged = time.monotonic(), done
        began, before = self.first_logged
        if done - before >= STEPS_TO_FORETELL:
            self.foretold = True
            seconds = (time.monotonic() - began) / (done - before) * (len(self.runs) * self.steps - done)
            left = timedelta(seconds=round(seconds))
            self.bars.console.print(
                f"Training all runs will take about {left}; loading and measuring come on top.", highlight=False
            )

    def finish(self, name: str) -> None:
        """Take a job's bar away."""
        self.update(name)
        self.bars.remove_task(self.jobs.pop(name))

    def _new_rows(self, name: str) -> list[LoggedStep | Measurement]:
        """Return the whole lines that a run has written since the last call.

        A resumed run shortens its file to what came before its checkpoint. Where that was not seen, because it was in
        this session and the file has grown since, a line may begin elsewhere; then all are read again.
        """
        file = self.folder.run(name).metrics
        if not file.exists():
            return []
        with file.open("rb") as stream:
            start = min(self.read_so_far.get(name, 0), file.stat().st_size)
            stream.seek(max(0, start - 1))
            if start and stream.read(1) != b"\n":
                start = stream.seek(0)
            content = stream.read()
        lines = content[: content.rfind(b"\n") + 1]
        self.read_so_far[name] = start + len(lines)
        rows = [row for row in map(json.loads, lines.splitlines()) if row["kind"] != "pause"]
        return [(Measurement if row["kind"] == "point" else LoggedStep).model_validate(row) for row in rows]

    def _line(self, name: str, point: Point) -> str:
        base = self.folder.base
        metrics: list[Metric] = base.metrics if base else []
        values = ((metric, metric.of(point)) for metric in metrics if metric.headline and metric.kind != "distance")
        shown = ", ".join(f"{metric.label} {value:.4g}" for metric, value in values if value is not None)
        return f"{name}: step {point.step}/{self.steps}, {shown}"

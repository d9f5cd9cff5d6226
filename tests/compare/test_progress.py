"""The bars of jobs in other processes, of files as these write them."""

import json
from io import StringIO

import pytest
from rich.console import Console

from mofo.compare.folder import OutputFolder
from mofo.compare.progress import Progress
from mofo.results import Plan, TaskPlan


@pytest.fixture
def progress(tmp_path):
    """The progress of one run of 9 steps, `run`."""
    folder = OutputFolder(tmp_path)
    task = TaskPlan(steps=9, training_rows=9, held_out_rows=1)
    folder.write_plan(Plan(total_steps=9, training_rows=9, held_out_rows=1, precision="float32", tasks=[task]))
    folder.run("run").path.mkdir(parents=True)
    with Progress(Console(file=StringIO()), folder) as progress:
        progress.expect(["run"])
        progress.start("run")
        yield progress


def write(progress, *losses):
    """Write a row for each step, with a loss whose digits decide its length."""
    rows = [{"kind": "training", "step": step, "loss": loss} for step, loss in enumerate(losses, start=1)]
    progress.folder.run("run").metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    progress.update("run")


def bar(progress):
    (found,) = (task for task in progress.bars.tasks if task.description == "run")
    return found


def test_job_without_a_log_waits_and_has_no_bar(progress):
    progress.update("run")
    assert not bar(progress).visible
    assert bar(progress).elapsed is None
    progress.folder.log("run").touch()
    progress.update("run")
    assert bar(progress).visible
    assert bar(progress).elapsed is not None


def test_steps_are_counted_as_they_are_written(progress):
    write(progress, 1.5)
    assert bar(progress).completed == 1
    write(progress, 1.5, 1.25, 1.125)
    assert bar(progress).completed == 3


def test_run_that_resumed_from_an_earlier_step_is_read_on(progress):
    write(progress, 1.5, 1.5, 1.5, 1.5)
    write(progress, 1.5, 1.5)
    write(progress, 1.5, 1.5, 1.5)
    assert bar(progress).completed == 3


def test_run_that_resumed_and_grew_before_it_was_seen_is_read_anew(progress):
    write(progress, 1.5, 1.5, 1.5)
    write(progress, 1.5, 1.2345678, 1.2345678, 1.2345678, 1.2345678)  # what was read ends within a line
    assert bar(progress).completed == 5

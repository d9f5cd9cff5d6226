"""`mofo compare`: prepare a folder, do its jobs in processes of their own, gather the results, draw the report."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console

from mofo.compare.estimate import estimate_table
from mofo.compare.folder import BASE_JOB, REFUSED, OutputFolder
from mofo.compare.gather import gather
from mofo.compare.launch import Launch, read_launch
from mofo.compare.on_ray import RayCluster, gpus_of_run, ray_cluster
from mofo.compare.prepare import check_folder, prepare
from mofo.compare.progress import Progress
from mofo.compare.recipe import Recipe
from mofo.compare.tune import end_losses, planned_runs
from mofo.errors import UserError
from mofo.files import sole_owner_of
from mofo.models.quiet import VERBOSE, is_verbose
from mofo.report import write_report
from mofo.report.formatting import plural
from mofo.results import Results

WORKER = ("-m", "mofo.compare.worker")
"""What Python is to run for a job."""

_ERROR = re.compile(r"(\[rank\d+\]: )?[\w.]+(Error|Exception)\b")  # the last line of a traceback


class Process(Protocol):
    """A job that was started: what is used of `subprocess.Popen`, which a cluster's have too."""

    @property
    def returncode(self) -> int | None:
        """The exit code; None before the end was seen."""

    def poll(self) -> int | None:
        """Return the exit code, or None before the end."""

    def kill(self) -> None:
        """End it."""

    def communicate(self) -> object:
        """Wait for its end."""


def compare(
    recipe: Recipe,
    output: Path,
    *,
    overwrite: bool = False,
    jobs: int = 1,
    launch: Path | None = None,
    on_ray: bool = False,
    gpus: float | None = None,
    until: int | None = None,
    console: Console | None = None,
    base: Path | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> Results:
    """Fine-tune one base with several methods on the same data in the same order, and measure each.

    Interrupted at any moment, the same call resumes. A finished folder is shown again, not made again; a recipe that
    only adds methods, settings or seeds adds their runs.

    Args:
        recipe: What to do.
        output: The folder of the results.
        overwrite: Replace what an earlier comparison left in the folder.
        jobs: Runs to do at the same time, each in a process of its own; with several GPUs one on each in turn.
        launch: A configuration file of accelerate, by which each run is spread over several GPUs.
        on_ray: Have a Ray cluster do all jobs, as many at the same time as it has room for.
        gpus: GPUs of a run there, 0 for runs on CPUs; by default one, or with `launch` one for each of its processes.
        until: The step after which each run is left; the next call goes on from there. None for their ends.
        console: Where progress is shown; standard error by default.
        base: The folder of another comparison with the same model, held-out rows and probes, whose measurement of the
            base is taken, and what methods keep of it.
        is_over: Asked before each run; none begins once it returns True.

    Returns:
        The content of `results.json`.

    Raises:
        UserError: The input cannot be used, the folder holds something else, a run failed on bad input, or the cluster
            cannot do the runs.
        RuntimeError: A run failed; its log is named.
    """
    console = console or Console(stderr=True)
    launched = read_launch(launch, recipe, jobs, here=not on_ray) if launch else None
    connection = ray_cluster(gpus_of_run(gpus, recipe, launched, jobs)) if on_ray else nullcontext()
    check_folder(output)
    with connection as cluster, sole_owner_of(output):
        if cluster is not None:
            cluster.check_folders(output)
        found = prepare(recipe, OutputFolder(output), overwrite=overwrite)
        if found is not None:
            console.print(estimate_table(found, output), highlight=False)
        if launched is not None:
            console.print(launched.description, highlight=False)
        for reason, count in OutputFolder(output).plan.rows.items():
            console.print(f"{count} {reason}", highlight=False)
        if base is not None:
            OutputFolder(output).take_base(OutputFolder(base))
        results = _run_jobs(recipe, OutputFolder(output), jobs, launched, until, cluster, console, is_over)
        write_report(output)
        if results.missing and until is not None:
            left = f"{plural(len(results.missing), 'run')} left at step {until}"
            console.print(f"{left}: the same command with a later --until, or without, goes on.", highlight=False)
        return results


def _run_jobs(
    recipe: Recipe,
    folder: OutputFolder,
    jobs: int,
    launch: Launch | None,
    until: int | None,
    cluster: RayCluster | None,
    console: Console,
    is_over: Callable[[], bool],
) -> Results:
    """Do what is not done yet: the base first, because its probes serve all runs, then the runs."""

    def start(name: str, number: int) -> Process:
        how = (1, None, None) if name == BASE_JOB else (jobs, launch, until)
        if cluster is not None:
            return _start_on_cluster(cluster, folder, name, *how[1:], console)
        return start_job(folder, name, number, *how)

    at_once = jobs if cluster is None else sys.maxsize  # a cluster has a queue
    with Progress(console, folder) as progress:
        if folder.base is None:
            _run_pool(lambda: [BASE_JOB] if folder.base is None else [], recipe, folder, start, at_once, progress)
        gather(recipe, folder)
        drop_models(recipe, folder)

        def unfinished() -> list[str]:
            return [] if is_over() else _unfinished(recipe, folder, progress)

        _run_pool(unfinished, recipe, folder, start, at_once, progress)
    return gather(recipe, folder)


def _unfinished(recipe: Recipe, folder: OutputFolder, progress: Progress) -> list[str]:
    """Return the names of the runs to do; tuning asks for more as it learns from the first."""
    finished = folder.finished_runs
    runs = [run for run in planned_runs(recipe, folder) if run.name not in finished]
    for run in runs:
        folder.run(run.name).write_run(run)
    progress.expect([run.name for run in runs])
    return [run.name for run in runs]


def _run_pool(
    unfinished: Callable[[], list[str]],
    recipe: Recipe,
    folder: OutputFolder,
    start: Callable[[str, int], Process],
    at_once: int,
    progress: Progress,
) -> None:
    """Do jobs, `at_once` at a time, as long as there are unfinished ones, and gather what each has found.

    One that ends without being finished was left at a step, and is not done again.
    """
    ended: set[str] = set()
    working: dict[str, Process] = {}
    waiting = unfinished()
    started = 0
    try:
        while waiting or working:
            while waiting and len(working) < at_once:
                name = waiting.pop(0)
                working[name] = start(name, started)
                progress.start(name)
                started += 1
            time.sleep(0.2)
            for name, process in list(working.items()):
                progress.update(name)
                code = process.poll()
                if code is not None:
                    del working[name]
                    ended.add(name)
                    _check_ended(folder, name, code)
                    progress.finish(name)
                    gather(recipe, folder)
                    drop_models(recipe, folder)
                    waiting = [other for other in unfinished() if other not in {*working, *ended}]
    finally:
        for process in working.values():
            process.kill()
        for process in working.values():
            process.communicate()  # closes its input, which ends the processes that a launcher started


def drop_models(recipe: Recipe, folder: OutputFolder) -> None:
    """Remove the models of runs that ended above another of their method, if only the best are to be kept."""
    if recipe.save != "best":
        return
    losses = end_losses(recipe, folder)
    best: dict[str, str] = {}
    for name, runs in folder.finished_runs.items():
        if folder.run(name).model.is_dir():
            method = runs[0].method
            kept, dropped = sorted([best.get(method, name), name], key=lambda run: losses[run])
            best[method] = kept
            if dropped != kept:
                shutil.rmtree(folder.run(dropped).model)


def start_job(
    folder: OutputFolder, name: str, number: int, jobs: int, launch: Launch | None = None, until: int | None = None
) -> subprocess.Popen[bytes]:
    """Start a job's process.

    Args:
        folder: The output folder.
        name: `base`, or the name of a run.
        number: Its place among the jobs, which decides its GPU.
        jobs: How many run at the same time and share the cores.
        launch: How it is spread over several processes; by default it is one.
        until: The step after which a run is left; by default its last.
    """
    environment = {**os.environ, **_environment()}
    if torch.cuda.device_count() > 1 and launch is None:
        environment["CUDA_VISIBLE_DEVICES"] = str(number % torch.cuda.device_count())
    elif jobs > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    python = launch.command(folder.plan) if launch else [sys.executable]
    with folder.log(name).open("wb") as log:
        return subprocess.Popen(
            [*python, *_worker(folder, name, until)],
            stdin=subprocess.PIPE,  # closes with this process, and the job ends when it does
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def _start_on_cluster(
    cluster: RayCluster,
    folder: OutputFolder,
    name: str,
    launch: Launch | None,
    until: int | None,
    console: Console,
) -> Process:
    """Hand a job to a cluster; one that is not launched has no use for several GPUs."""
    launcher = launch.command(folder.plan)[1:] if launch else []  # without this machine's Python
    gpus = cluster.gpus if launch else min(1, cluster.gpus)
    words = [*launcher, *_worker(folder, name, until)]
    return cluster.start(words, folder.log(name), _environment(), gpus, console)


def _worker(folder: OutputFolder, name: str, until: int | None) -> list[str]:
    """Return what Python is to run for a job."""
    return [*WORKER, str(folder.path), name, *([] if until is None else [str(until)])]


def _environment() -> dict[str, str]:
    """Return the variables of a job beside those of its machine."""
    waiting = os.environ.get("OMP_WAIT_POLICY", "passive")  # threads that spin lose twentyfold on a busy machine
    speaking = {VERBOSE: os.environ[VERBOSE]} if is_verbose() else {}
    return {"TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore", "OMP_WAIT_POLICY": waiting, **speaking}


def _check_ended(folder: OutputFolder, name: str, code: int) -> None:
    if code == 0:
        return
    if code == -signal.SIGKILL:
        raise UserError(
            f"The job {name} was killed (SIGKILL), as systems do where memory runs out: free some, or give fewer "
            "--jobs, then run the same command to resume."
        )
    log = folder.log(name)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no message"]
    refused = [line.removeprefix(REFUSED) for line in lines if line.startswith(REFUSED)]
    if refused:
        raise UserError(refused[-1])
    errors = [line for line in lines if _ERROR.match(line)]  # a launcher goes on to say that its processes failed
    last = (errors or lines)[-1]
    if "No space left" in last or shutil.disk_usage(folder.path).free < 1 << 20:
        raise UserError(f"The disk of {folder.path} is full: free some space, then run the same command to resume.")
    raise RuntimeError(f"The job {name} ended with exit code {code}: {last} (see {log})")

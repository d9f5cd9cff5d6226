"""`mofo compare`: prepare a folder, do its jobs, gather the results, draw the report."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from rich.console import Console

import mofo
from mofo.compare.progress import Progress
from mofo.compare.recipe import Recipe, make_recipe, read_recipe
from mofo.data.rows import GENERATED, Row, encode, load_rows, split_rows, without
from mofo.errors import UserError
from mofo.files import read_json, write_json, write_jsonl, write_text
from mofo.measure import check_probe_specs
from mofo.models.load import load_tokenizer, local_folder
from mofo.models.precision import choose_precision
from mofo.report import write_report

SCHEMA = 1


def compare(
    recipe: Recipe, output: Path, *, overwrite: bool = False, jobs: int = 1, console: Console | None = None
) -> dict[str, Any]:
    """Fine-tunes one base with several methods on the same data in the same order and measures each.

    Stopped at any moment, the same call goes on where it was. A finished folder is shown again, not made again; a
    recipe that only adds methods, learning rates, fractions or seeds adds their runs.

    Args:
        recipe: What to do.
        output: The folder of the results.
        overwrite: Replace what an earlier comparison left in the folder.
        jobs: Runs to do at the same time, each in a process of its own; with several GPUs one on each in turn.
        console: Where progress is shown; standard error by default.

    Returns:
        The content of ``results.json``.

    Raises:
        UserError: The input cannot be used, the folder holds something else, or a run failed on bad input.
        RuntimeError: A run failed; its log is named.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(output.with_name(f".{output.name}.lock"), timeout=0):
            _prepare(recipe, output, overwrite=overwrite)
            _do_jobs(recipe, output, jobs, console or Console(stderr=True))
            write_report(output)
            return read_json(output / "results.json")
    except Timeout:
        raise UserError(f"Another process is working on {output}: wait for it, or choose another --output.") from None


def _prepare(recipe: Recipe, output: Path, *, overwrite: bool) -> None:
    """Makes the folder with the recipe, the plan and the data, or finds that it is there."""
    check_probe_specs(recipe.probes)
    if output.exists() and not overwrite and any(output.iterdir()):
        _check_continues(recipe, output)
        write_text(output / "recipe.yaml", _yaml(recipe))
        return
    if output.exists() and any(output.iterdir()) and not (output / "plan.json").exists():
        raise UserError(f"{output} is not a folder of mofo compare, so it is not overwritten: choose another --output.")
    training, held_out = _load_data(recipe)
    folder = local_folder(recipe.model)
    plan = _plan(recipe, folder, training, held_out)
    _check_disk(recipe, output, folder)
    scratch = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        scratch.chmod(0o755)  # mkdtemp makes private folders
        (scratch / "data").mkdir()
        (scratch / "runs").mkdir()
        write_jsonl(scratch / "data" / "train.jsonl", training)
        write_jsonl(scratch / "data" / "held_out.jsonl", held_out)
        write_json(scratch / "plan.json", plan)
        write_text(scratch / "recipe.yaml", _yaml(recipe))
        if output.exists():
            shutil.rmtree(output)
        scratch.rename(output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_continues(recipe: Recipe, output: Path) -> None:
    """Refuses a folder that is not this recipe's."""
    if not (output / "plan.json").exists():
        raise UserError(f"{output} exists and is not a folder of mofo compare: choose another --output.")
    earlier = make_recipe(read_recipe(output / "recipe.yaml"))
    before, now = earlier.without_grid(), recipe.without_grid()
    changed = [f"{name} was {before[name]!r}, is {now[name]!r}" for name in now if now[name] != before[name]]
    begun = {folder.name for folder in (output / "runs").iterdir()}
    lost = sorted(begun - {run.name for run in recipe.runs()})
    if changed or lost:
        difference = "; ".join(changed) or f"this recipe lacks its runs {', '.join(lost)}"
        raise UserError(
            f"{output} holds another comparison ({difference}): choose another --output, or --overwrite it."
        )


def _load_data(recipe: Recipe) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows that share none."""
    if recipe.held_out is not None:
        held_out = load_rows(recipe.held_out, split="test", limit=recipe.held_out_rows, seed=1)
        training = without(load_rows(recipe.data, limit=recipe.train_rows), held_out)
    elif recipe.data.startswith(GENERATED):
        count = recipe.train_rows or _rows_needed(recipe)
        rows = load_rows(recipe.data, limit=count + recipe.held_out_rows)
        training, held_out = split_rows(rows, recipe.held_out_rows, seed=0)
    else:
        training, held_out = split_rows(load_rows(recipe.data), recipe.held_out_rows, seed=0)
        training = training[: recipe.train_rows]
    if not training:
        raise UserError(f"{recipe.data} has no row that is not held out too: give training rows of their own.")
    return training, held_out


def _rows_needed(recipe: Recipe) -> int:
    """How many problems to generate: as many as the steps use, so that none repeats; 1000 where epochs decide."""
    return recipe.steps * recipe.batch_size * recipe.gradient_accumulation if recipe.steps else 1000


def _plan(recipe: Recipe, folder: Path, training: list[Row], held_out: list[Row]) -> dict[str, Any]:
    """What was decided before the first job, and the rows checked against the tokenizer."""
    tokenizer = load_tokenizer(folder, trust_remote_code=recipe.trust_remote_code)
    usable = {}
    for name, rows in (("training", training), ("held-out", held_out)):
        examples = [encode(row, tokenizer, recipe.max_length) for row in rows]
        usable[name] = sum(any(label != -100 for label in example["labels"]) for example in examples)
        if not usable[name]:
            raise UserError(
                f"No {name} row has a completion within max_length = {recipe.max_length} tokens: raise --max-length."
            )
    return {
        "model_folder": str(folder.resolve()),
        "total_steps": recipe.total_steps(usable["training"]),
        "training_rows": usable["training"],
        "held_out_rows": usable["held-out"],
        "precision": choose_precision(recipe.precision),
    }


def _check_disk(recipe: Recipe, output: Path, folder: Path) -> None:
    """Refuses to begin what would fill the disk: two checkpoints of three model sizes, and the models that are kept."""
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    needed = weights * (6 + (len(recipe.runs()) if recipe.save else 0))
    free = shutil.disk_usage(output.parent).free
    if free < needed:
        raise UserError(
            f"{output.parent.resolve()} has {free / 1e9:.1f} GB free and the comparison needs {needed / 1e9:.1f} GB: "
            "free some, choose another --output, or keep no models with --no-save."
        )


def _do_jobs(recipe: Recipe, output: Path, jobs: int, console: Console) -> None:
    """Does what is not done yet: the base first, because its text serves all runs, then the runs."""
    runs = [run.name for run in recipe.runs() if not (output / "runs" / run.name / "result.json").exists()]
    total = read_json(output / "plan.json")["total_steps"]
    with Progress(console, output, runs, total) as progress:
        if not (output / "base.json").exists():
            _work(recipe, output, ["base"], 1, progress)
        _gather(recipe, output)
        _work(recipe, output, runs, jobs, progress)


def _work(recipe: Recipe, output: Path, names: list[str], jobs: int, progress: Progress) -> None:
    """Does the named jobs in processes of their own, ``jobs`` at a time, and gathers what each has found."""
    waiting, working = deque(enumerate(names)), {}
    try:
        while waiting or working:
            while waiting and len(working) < jobs:
                number, name = waiting.popleft()
                working[name] = _start(output, name, number, jobs)
                progress.start(name)
            time.sleep(0.2)
            for name, process in list(working.items()):
                progress.update(name)
                if process.poll() is not None:
                    del working[name]
                    _check_ended(output, name, process.returncode)
                    progress.finish(name)
                    _gather(recipe, output)
    finally:
        for process in working.values():
            process.kill()
            process.wait()


def _start(output: Path, name: str, number: int, jobs: int) -> subprocess.Popen[bytes]:
    environment = dict(os.environ, TOKENIZERS_PARALLELISM="false", PYTHONWARNINGS="ignore")
    environment.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin lose twentyfold on a busy machine
    if torch.cuda.device_count() > 1:
        environment["CUDA_VISIBLE_DEVICES"] = str(number % torch.cuda.device_count())
    elif jobs > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    with _log(output, name).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mofo.compare.worker", str(output), name],
            stdin=subprocess.PIPE,  # closes with this process, and the job ends when it does
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def _log(output: Path, name: str) -> Path:
    folder = output / "logs"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.txt"


def _check_ended(output: Path, name: str, code: int) -> None:
    if code == 0:
        return
    log = _log(output, name)
    last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no message"])[-1]
    if code == 2:
        raise UserError(last)
    if "No space left" in last or shutil.disk_usage(output).free < 1 << 20:
        raise UserError(f"The disk of {output} is full: free some space; the same command then goes on where it was.")
    raise RuntimeError(f"The job {name} ended with exit code {code}: {last} (see {log})")


def _gather(recipe: Recipe, output: Path) -> None:
    """Writes results.json from what the jobs have left so far."""
    files = [output / "runs" / run.name / "result.json" for run in recipe.runs()]
    done = [read_json(file) for file in files if file.exists()]
    results = {
        "schema": SCHEMA,
        "complete": len(done) == len(files),
        "recipe": recipe.to_dict() | read_json(output / "plan.json"),
        "versions": {"mofo": mofo.__version__, "python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "hardware": hardware(),
        "base": read_json(output / "base.json"),
        "runs": done,
    }
    write_json(output / "results.json", results)


def hardware() -> dict[str, Any]:
    """The machine, as results.json names it; memory in bytes."""
    import psutil

    cuda = torch.cuda.is_available()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "device": "cuda" if cuda else "cpu",
        "gpu": torch.cuda.get_device_name() if cuda else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _yaml(recipe: Recipe) -> str:
    return "# mofo compare --recipe FILE makes this comparison again\n" + yaml.safe_dump(
        json.loads(json.dumps(recipe.to_dict())), sort_keys=False
    )

"""Runs that `accelerate launch` spreads over processes: as those of one process, also killed and resumed.

Two processes with gloo on the CPU; `reference/as_on_gpus.py` tells accelerate that they are GPUs.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from mofo.compare import jobs, worker
from mofo.compare.launch import read_launch
from mofo.compare.recipe import make_recipe
from mofo.errors import UserError

ROOT = Path(__file__).parents[2]
AS_ON_GPUS = (str(ROOT / "tests/reference/as_on_gpus.py"), worker.__file__)


@pytest.fixture(scope="module")
def values(tiny_model, tiny_data):
    return {
        "model": tiny_model,
        "data": tiny_data,
        "held_out_rows": 6,
        "methods": ["adamw", "mofo"],
        "settings": {"learning_rate": 1e-2, "fraction": 0.1},
        "steps": 6,
        "batch_size": 4,
        "points": 3,
        "probes": ["text", "divergence"],
        "answers": 2,
        "answer_tokens": 4,
        "precision": "float32",
        "save": "all",
    }


@pytest.fixture
def launch_file(tmp_path):
    """Return a function that writes a file of `examples/accelerate` for two processes, with changes."""

    def write(name, **changes):
        config = yaml.safe_load((ROOT / "examples" / "accelerate" / f"{name}.yaml").read_text())
        config["fsdp_config"] = config.get("fsdp_config", {}) | changes.pop("fsdp_config", {})
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(config | {"num_processes": 2} | changes))
        return file

    return write


@pytest.fixture
def _gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(jobs, "WORKER", AS_ON_GPUS)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def numbers(run):
    """The losses, divergences and distances of a run in one row."""
    points = [
        value
        for point in run.points
        for value in (
            point.learned["sums"]["loss"],
            point.forgotten["text"]["loss"],
            point.forgotten["divergence"]["kl"],
        )
    ]
    return [*points, *(step.loss for step in run.training), run.distance.l2]


@pytest.mark.full
@pytest.mark.processes
@pytest.mark.usefixtures("_gpus")
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_launched_runs_end_as_those_of_one_process(tmp_path, values, launch_file, monkeypatch, name):
    recipe = make_recipe(
        values | {"methods": ["adamw", "mofo", {"adamw": {}, "self-distill": {"texts": 4, "tokens": 8}}]}
    )
    launched = jobs.compare(recipe, tmp_path / "launched", launch=launch_file(name))
    monkeypatch.undo()
    alone = jobs.compare(recipe, tmp_path / "alone")
    for run, other in zip(launched.runs, alone.runs, strict=True):
        assert numbers(run) == pytest.approx(numbers(other), rel=1e-3, abs=1e-4)
        assert [point.tokens for point in run.points] == [point.tokens for point in other.points]
        assert run.distance.moved == pytest.approx(other.distance.moved, abs=0.01)
        assert run.samples
        models = [
            AutoModelForCausalLM.from_pretrained(tmp_path / folder / run.model) for folder in ("launched", "alone")
        ]
        for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
            assert (ours - theirs).norm() < 1e-2 * theirs.norm()
        assert not list((tmp_path / "launched" / "runs" / run.name).glob("checkpoints*"))


SCRIPT = """
import sys, json, torch
from pathlib import Path
from mofo.compare import jobs
from mofo.compare.recipe import make_recipe
recipe, output, launch, worker = sys.argv[1:]
torch.cuda.device_count = lambda: 2
jobs.WORKER = json.loads(worker)
jobs.compare(make_recipe(json.loads(recipe)), Path(output), launch=Path(launch))
"""


def without_time(results):
    return [run.model_dump(exclude={"seconds", "peak_memory_bytes"}) for run in results.runs]


@pytest.mark.full
@pytest.mark.processes
@pytest.mark.usefixtures("_gpus")
@pytest.mark.parametrize(("name", "kept"), [("ddp", "model.safetensors"), ("fsdp2", "pytorch_model_fsdp_0")])
def test_launched_run_that_was_killed_ends_as_if_it_had_not_been(tmp_path, values, launch_file, name, kept):
    recipe = make_recipe(values | {"methods": ["mofo"], "steps": 40, "points": 20, "answers": 0})
    whole = jobs.compare(recipe, tmp_path / "whole", launch=launch_file(name))
    words = [json.dumps(recipe.to_dict()), tmp_path / "killed", launch_file(name), json.dumps(AS_ON_GPUS)]
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, *map(str, words)], stderr=subprocess.DEVNULL)
    run = tmp_path / "killed" / "runs" / recipe.runs()[0].name
    spread = run / f"checkpoints-{name.removesuffix('2')}-2" / "1"
    while not (spread / "checkpoint-6" / "trainer_state.json").exists():
        assert process.poll() is None
        time.sleep(0.005)
    assert list(spread.glob(f"checkpoint-*/{kept}"))
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=30)  # they end by themselves when the first is gone
    assert not alive
    assert len((run / "metrics.jsonl").read_text().splitlines()) < 60
    assert without_time(jobs.compare(recipe, tmp_path / "killed", launch=launch_file(name))) == without_time(whole)


@pytest.mark.processes
@pytest.mark.usefixtures("_gpus")
def test_launched_run_that_cannot_be_made_says_so_in_one_sentence(tmp_path, values, launch_file):
    replay = {"mofo": {}, "replay": {"data": str(tmp_path / "none.jsonl")}}
    with pytest.raises(UserError, match=r"^The data file \S+none.jsonl does not exist"):
        jobs.compare(make_recipe(values | {"methods": [replay]}), tmp_path / "out", launch=launch_file("ddp"))


@pytest.mark.usefixtures("_gpus")
def test_read_launch_knows_how_a_run_is_spread(values, launch_file):
    found = [read_launch(launch_file(name), make_recipe(values), jobs=1) for name in ("ddp", "fsdp2")]
    assert [(launch.processes, launch.sharded) for launch in found] == [(2, False), (2, True)]


@pytest.mark.usefixtures("_gpus")
@pytest.mark.parametrize(
    ("name", "config", "recipe", "message"),
    [
        ("deepspeed", {}, {}, r"has distributed_type 'DEEPSPEED': --launch takes .* MULTI_GPU \(DDP\) or FSDP"),
        (
            "fsdp2",
            {"fsdp_config": {"fsdp_version": 1}},
            {},
            "FSDP1, which flattens the parameters: set fsdp_version to 2",
        ),
        ("ddp", {"num_machines": 2}, {}, "for several machines"),
        ("ddp", {"num_processes": "two"}, {}, "has num_processes 'two', expected a number"),
        ("ddp", {"num_processes": 4}, {}, "wants 4 GPUs and this machine has 2"),
        ("ddp", {}, {"batch_size": 3}, "batch_size is 3, which 2 processes cannot share evenly"),
        ("fsdp2", {}, {"weights": "bfloat16", "precision": "auto"}, "leave --weights out, or launch DDP"),
        ("fsdp2", {}, {"methods": [{"mofo": {"blocks": "layer"}}]}, "mofo-layer selects from whole tensors"),
        ("ddp", {}, {"methods": ["mofo+l2", "lora"]}, r"^l2, lora cannot be spread .*\(here mofo, adamw can\)"),
    ],
)
def test_read_launch_refuses_what_would_not_be_the_same(values, launch_file, name, config, recipe, message):
    settings = {"settings": {"learning_rate": 1e-2}}
    with pytest.raises(UserError, match=message):
        read_launch(launch_file(name, **config), make_recipe(values | settings | recipe), jobs=1)


@pytest.mark.usefixtures("_gpus")
def test_read_launch_refuses_other_runs_beside_and_files_that_it_cannot_read(values, launch_file, tmp_path):
    recipe = make_recipe(values)
    with pytest.raises(UserError, match="leave --jobs out"):
        read_launch(launch_file("ddp"), recipe, jobs=2)
    with pytest.raises(UserError, match="cannot be read"):
        read_launch(tmp_path / "none.yaml", recipe, jobs=1)
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(UserError, match="has distributed_type None"):
        read_launch(tmp_path / "list.yaml", recipe, jobs=1)

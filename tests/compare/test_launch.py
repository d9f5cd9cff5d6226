"""Runs that `accelerate launch` spreads over processes: as those of one process, also killed and resumed.

Two processes with gloo on the CPU; `reference/as_on_gpus.py` tells accelerate that they are GPUs.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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
        for value in (point.learned["sums"]["loss"], point.forgotten["text"]["loss"], point.forgotten["divergence"]["kl"])
    ]
    return [*points, *(step.loss for step in run.training), run.distance.l2]


@pytest.mark.full
@pytest.mark.processes
@pytest.mark.usefixtures("_gpus")
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_launched_runs_end_as_those_of_one_process(tmp_path, values, launch_file, monkeypatch, name):
    recipe = make_recipe(values)
    launched = jobs.compare(recipe, tmp_path / "launched", launch=launch_file(name))
    monkeypatch.setattr(jobs, "WORKER", ("-m", "mofo.compare.worker"))
    monkeypatch.undo()
    alone = jobs.compare(recipe, tmp_path / "alone")
    for run, other in zip(launched.runs, alone.runs, strict=True):
        assert numbers(run) == pytest.approx(numbers(other), rel=1e-3, abs=1e-4)
        assert [point.tokens for point in run.points] == [point.tokens for point in other.points]
        assert run.distance.moved == pytest.approx(other.distance.moved, abs=0.01)
        assert run.samples
        models = [AutoModelForCausalLM.from_pretrained(tmp_path / folder / run.model) for folder in ("launched", "alone")]
        for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
            assert (ours - theirs).norm() < 1e-2 * theirs.norm()
        assert not list((tmp_path / "launched" / "runs" / run.name).glob("checkpoints*"))

"""Runs that are spread over several GPUs: each is started by `accelerate launch` with a file of the user's."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from mofo.compare.recipe import Recipe
from mofo.errors import UserError
from mofo.results import Plan

SPREAD = {"MULTI_GPU": "DDP", "FSDP": "FSDP2"}
"""The kinds of training that a file may name as its `distributed_type`, and what readers call them."""


@dataclass(frozen=True)
class Launch:
    """How each run is started.

    Attributes:
        file: A configuration file of accelerate.
        processes: Number of processes, one a GPU.
        sharded: Whether parameters, gradients and moments are spread over them (FSDP2), or only the rows (DDP).
    """

    file: Path
    processes: int
    sharded: bool

    def command(self, plan: Plan) -> list[str]:
        """Return the words in front of a worker's own; numbers are computed as without them."""
        words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(self.file)]
        words += ["--main_process_port", "0", "--mixed_precision", "bf16" if plan.precision == "bfloat16" else "no"]
        # Every process loads the model, because the probes measure the base before it is spread.
        return [*words, *(["--fsdp_cpu_ram_efficient_loading", "false"] if self.sharded else [])]

    @property
    def description(self) -> str:
        """What a reader is to know of it."""
        kind = SPREAD["FSDP" if self.sharded else "MULTI_GPU"]
        return f"Each run is spread over {self.processes} processes with {kind} ({self.file})."


def read_launch(file: Path, recipe: Recipe, jobs: int, *, here: bool = True) -> Launch:
    """Read a configuration file of accelerate and check that the runs of a recipe can be launched by it.

    Args:
        file: The file, as `accelerate config` writes it.
        recipe: What to do.
        jobs: Runs at the same time.
        here: Whether the runs are to be on this machine, whose GPUs are then counted.

    Raises:
        UserError: The file cannot be read, or asks for what the recipe or this machine cannot do.
    """
    try:
        values: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"The file {file} of --launch cannot be read: {' '.join(str(error).split())}") from None
    kind = values.get("distributed_type") if isinstance(values, dict) else None
    if kind not in SPREAD:
        raise UserError(
            f"{file} has distributed_type {kind!r}: --launch takes a file of `accelerate config` for MULTI_GPU (DDP) "
            "or FSDP (version 2)."
        )
    launch = Launch(file, _number(values, "num_processes", file), sharded=kind == "FSDP")
    if launch.sharded and (values.get("fsdp_config") or {}).get("fsdp_version") != 2:
        raise UserError(f"{file} is for FSDP1, which flattens the parameters: set fsdp_version to 2.")
    if _number(values, "num_machines", file) != 1:
        raise UserError(f"{file} is for several machines: --launch starts its processes on this one alone.")
    if jobs > 1:
        raise UserError(f"--jobs is {jobs}, but with --launch one run uses all GPUs: leave --jobs out.")
    if here and torch.cuda.device_count() < launch.processes:
        raise UserError(
            f"{file} wants {launch.processes} GPUs and this machine has {torch.cuda.device_count()}: change "
            "num_processes, or leave --launch out."
        )
    _check_recipe(recipe, launch)
    return launch


def _number(values: dict[str, Any], name: str, file: Path) -> int:
    number = values.get(name, 1)
    if not isinstance(number, int) or number < 1:
        raise UserError(f"{file} has {name} {number!r}, expected a number of at least 1.")
    return number


def _check_recipe(recipe: Recipe, launch: Launch) -> None:
    """Refuse recipes whose runs would not be what they are on one GPU."""
    if recipe.batch_size % launch.processes:
        raise UserError(
            f"batch_size is {recipe.batch_size}, which {launch.processes} processes cannot share evenly: give a "
            "multiple of them, so that a step has the same rows as on one GPU."
        )
    if len(recipe.tasks) > 1:
        raise UserError("Several tasks are learned in one process: leave --launch out, or give the recipe one task.")
    if launch.sharded and recipe.weights == "bfloat16":
        raise UserError(
            "weights are bfloat16, which accelerate turns into float32 under FSDP2: leave --weights out, or launch DDP."
        )
    whole = {run.method.name for run in recipe.runs() if any(part.needs_whole_tensors for part in run.method.parts)}
    if launch.sharded and whole:
        raise UserError(
            f"{', '.join(sorted(whole))} selects from whole tensors, which FSDP2 cuts: leave it out of the methods, or "
            "launch DDP."
        )
    parts = {part.name: part for run in recipe.runs() for part in run.method.parts}
    alone = [name for name, part in parts.items() if not part.across_processes]
    if alone:
        able = [name for name in parts if name not in alone]
        kept = f" (here {', '.join(able)} can)" if able else ""
        raise UserError(
            f"{', '.join(alone)} cannot be spread over several processes{kept}: leave it out of the methods, or "
            "--launch."
        )


def world_size() -> int:
    """Return the number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_launched() -> bool:
    """Return whether this process is one of several that train together."""
    return world_size() > 1


def is_main() -> bool:
    """Return whether this process is the one that writes: the only one, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def spread_name() -> str:
    """Return a word for how this process trains with others, `ddp-2` or `fsdp-8`; empty if it trains alone."""
    if not is_launched():
        return ""
    kind = "fsdp" if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" else "ddp"
    return f"{kind}-{world_size()}"

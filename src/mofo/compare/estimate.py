"""What a comparison will take: shown before it starts, so that nobody finds out after a night."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from rich.table import Table

from mofo.compare.recipe import Recipe
from mofo.measure.kinds import kept_positions
from mofo.models.load import empty_model
from mofo.models.memory import pass_memory
from mofo.models.precision import compute_device
from mofo.models.weights import token_rows

LIBRARIES = 700_000_000
"""Bytes of a run's process before it has a model: Python, torch, transformers and trl, on Linux without a GPU."""


@dataclass(frozen=True)
class Estimate:
    """What a comparison will take.

    Attributes:
        runs: Number of runs; tuning may ask for more.
        steps: Optimizer steps of a run.
        tokens: Training tokens of a run, as a mean over its rows.
        parameters: Parameters of the model.
        states: Bytes of the weights and of the state that the optimizer with the most keeps of all of them.
        batch: Rows of a batch, and tokens of the longest row that is trained on.
        activations: The most bytes that such a batch adds: gradients, activations, logits and what the loss makes of
            them. None if the model's code does not let them be counted.
        base: Bytes of the copy of the base's weights in host memory.
        probes: Bytes of the base's logits that probes keep in host memory.
        disk: Bytes of two checkpoints, one of which replaces the other, and of the models that are kept.
    """

    runs: int
    steps: int
    tokens: int
    parameters: int
    states: int
    batch: tuple[int, int]
    activations: int | None
    base: int
    probes: int
    disk: int


def estimate(recipe: Recipe, precision: str, steps: Sequence[int], lengths: Sequence[Sequence[int]]) -> Estimate:
    """Return what a comparison will take, without loading the model.

    Args:
        recipe: The recipe.
        precision: That of the computation, `float32` or `bfloat16`.
        steps: Optimizer steps of each task.
        lengths: Tokens of each training row of each task.
    """
    runs = recipe.runs()
    model = empty_model(recipe.model, trust_remote_code=recipe.trust_remote_code)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    dtype: torch.dtype = getattr(torch, recipe.weights)
    trained = dtype.itemsize + max(run.method.optimizer.state_bytes(dtype.itemsize) for run in runs)
    longest = max(max(rows) for rows in lengths)
    logits = torch.bfloat16 if precision == "bfloat16" else torch.float32
    vocabulary = token_rows(model)
    # The best of each method and the one that may take its place.
    best = min(len({run.method_name for run in runs}) + 1, len(runs))
    on_the_way = sum(len(recipe.point_steps(n)) for n in steps)
    kept = {"none": 0, "all": len(runs), "points": len(runs) * on_the_way, "best": best}[recipe.save]
    return Estimate(
        runs=len(runs),
        steps=sum(steps),
        tokens=round(sum(fmean(rows) * n * recipe.rows_per_step for rows, n in zip(lengths, steps, strict=True))),
        parameters=parameters,
        states=parameters * trained,
        batch=(recipe.batch_size, longest),
        activations=pass_memory(
            model,
            rows=recipe.batch_size,
            length=longest,
            dtype=dtype,
            bf16=precision == "bfloat16",
            checkpointing=recipe.gradient_checkpointing,
            batches=recipe.gradient_accumulation,
        ),
        base=parameters * dtype.itemsize,
        probes=kept_positions((*recipe.probes, *recipe.end_probes)) * vocabulary * logits.itemsize,
        disk=parameters * (2 * trained + kept * dtype.itemsize),
    )


def estimate_table(found: Estimate, output: Path) -> Table:
    """Return the plan of a comparison as a table for the terminal."""
    table = Table(box=None, show_header=False, title="Plan", title_justify="left")
    table.add_row("runs", f"{found.runs}, of {found.steps:,} steps each")
    table.add_row("training", f"{found.tokens:,} tokens a run, {found.runs * found.tokens:,} in all")
    table.add_row("model", f"{found.parameters / 1e6:,.1f} M parameters")
    for where, text in _memory(found):
        table.add_row(where, text)
    table.add_row("disk", f"up to {_size(found.disk)} in {output}")
    return table


def _memory(found: Estimate) -> Iterator[tuple[str, str]]:
    """Yield what a run takes of each kind of memory, and what is counted."""
    rows, length = found.batch
    where_it_computes = {
        "weights and optimizer state": found.states,
        f"gradients, activations and logits of {rows} × {length:,} tokens": found.activations,
    }
    beside = {
        "the base's weights": found.base,
        "what probes keep": found.probes,
        "Python and its libraries": LIBRARIES,
    }
    if compute_device().type == "cuda":
        yield "GPU memory", _sum(where_it_computes)
        yield "memory", _sum(beside)
    else:
        yield "memory", _sum(where_it_computes | beside)


def _sum(items: Mapping[str, int | None]) -> str:
    """Return the sum of several sizes and each of them; those that are not known are named."""
    total = sum(size for size in items.values() if size is not None)
    words = [f"{name} {'unknown' if size is None else _size(size)}" for name, size in items.items() if size != 0]
    return f"about {_size(total)} a run: {', '.join(words)}"


def _size(number: int) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"

"""What a comparison will take: shown before it starts, so that nobody finds out after a night."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from rich.table import Table

from mofo.compare.recipe import Recipe
from mofo.models.load import empty_model

MOMENTS = 8
"""Bytes of the two moments of a parameter in float32."""


@dataclass(frozen=True)
class Estimate:
    """What a comparison will take.

    Attributes:
        runs: Number of runs; tuning may ask for more.
        steps: Optimizer steps of a run.
        tokens: Training tokens of a run, as a mean over its rows.
        parameters: Parameters of the model.
        memory: Bytes of a full fine-tuning with two moments: weights, gradients and moments, without activations;
            adapters and frozen parts take less.
        host: Bytes of the copy of the base in host memory.
        disk: Bytes of two checkpoints, one of which replaces the other, and of the models that are kept.
    """

    runs: int
    steps: int
    tokens: int
    parameters: int
    memory: int
    host: int
    disk: int


def estimate(recipe: Recipe, steps: Sequence[int], lengths: Sequence[Sequence[int]]) -> Estimate:
    """Return what a comparison will take, without loading the model.

    Args:
        recipe: The recipe.
        steps: Optimizer steps of each task.
        lengths: Tokens of each training row of each task.
    """
    runs = recipe.runs()
    model = empty_model(recipe.model, trust_remote_code=recipe.trust_remote_code)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    width = getattr(torch, recipe.weights).itemsize
    # The best of each method and the one that may take its place.
    best = min(len({run.method_name for run in runs}) + 1, len(runs))
    on_the_way = sum(len(recipe.point_steps(n)) for n in steps)
    kept = {"none": 0, "all": len(runs), "points": len(runs) * on_the_way, "best": best}[recipe.save]
    return Estimate(
        runs=len(runs),
        steps=sum(steps),
        tokens=round(sum(fmean(rows) * n * recipe.rows_per_step for rows, n in zip(lengths, steps, strict=True))),
        parameters=parameters,
        memory=parameters * (2 * width + MOMENTS),
        host=parameters * width,
        disk=parameters * (2 * (width + MOMENTS) + kept * width),
    )


def estimate_table(found: Estimate, output: Path) -> Table:
    """Return the plan of a comparison as a table for the terminal."""
    table = Table(box=None, show_header=False, title="Plan", title_justify="left")
    table.add_row("runs", f"{found.runs}, of {found.steps:,} steps each")
    table.add_row("training", f"{found.tokens:,} tokens a run, {found.runs * found.tokens:,} in all")
    table.add_row("model", f"{found.parameters / 1e6:,.1f} M parameters")
    table.add_row(
        "memory",
        f"{_size(found.memory)} a run for weights, gradients and moments, {_size(found.host)} for the base's weights, "
        "and activations",
    )
    table.add_row("disk", f"up to {_size(found.disk)} in {output}")
    return table


def _size(number: int) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"

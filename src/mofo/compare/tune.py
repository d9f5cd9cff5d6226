"""Learning rates tuned for each method by one rule, so that no method is held against a badly tuned rival.

With its first seed, every combination of a method's other settings is tried at the recipe's learning rates, and the
grid is widened by factors of 2 until its best end, the one with the lowest held-out loss, does not lie at its edge.
Then the best of each method is run with the other seeds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

from mofo.compare.folder import OutputFolder
from mofo.compare.planned import PlannedRun
from mofo.compare.recipe import Recipe
from mofo.methods.method import Method

WIDEST = 6
"""How often a grid is widened at either end; a method that still improves is left there."""


def planned_runs(recipe: Recipe, folder: OutputFolder) -> list[PlannedRun]:
    """Return the runs of a comparison, done or not: all of the recipe's, or those that tuning asks for so far."""
    return tuned_runs(recipe, end_losses(recipe, folder)) if recipe.tunes else recipe.runs()


def tuned_runs(recipe: Recipe, ends: Mapping[str, float]) -> list[PlannedRun]:
    """Return all runs that the rule asks for, given what is known.

    Args:
        recipe: The recipe. The runs of an entry that is not tuned are asked for as they are.
        ends: Held-out loss at the end of each finished run by its name; infinite where it diverged.

    Returns:
        Finished and unfinished runs. When all of them are finished, the rule has nothing more to ask.
    """
    by_name: dict[str, list[PlannedRun]] = defaultdict(list)
    for run in recipe.runs():
        by_name[run.method_name].append(run)
    planned = [run for runs in by_name.values() for run in _planned(runs, ends)]
    return list({run.name: run for run in planned}.values())


def _planned(runs: list[PlannedRun], ends: Mapping[str, float]) -> list[PlannedRun]:
    """Return the runs of one method: those of entries that are not tuned, and what tuning makes of the others."""
    tuned = [run for run in runs if run.tune]
    given = [run for run in runs if not run.tune]
    return [*given, *(_tuned(tuned, ends) if tuned else [])]


def _tuned(planned: list[PlannedRun], ends: Mapping[str, float]) -> list[PlannedRun]:
    """Return the runs of one method, from what the recipe has of it: each point of its grid with each of its seeds."""
    first, *other_seeds = dict.fromkeys(run.seed for run in planned)  # those of an entry of its own, or the recipe's
    grids: dict[str, dict[float, PlannedRun]] = defaultdict(dict)
    for point in planned:
        rate = point.method.optimizer.learning_rate
        grids[_but_learning_rate(point.method)][rate] = replace(point, seed=first)
    for grid in grids.values():
        _widen(grid, ends)
    runs = [run for grid in grids.values() for _, run in sorted(grid.items())]
    if any(run.name not in ends for run in runs):
        return runs
    best = min(runs, key=lambda run: ends[run.name])
    return [*runs, *(replace(best, seed=seed) for seed in other_seeds)]


def _widen(grid: dict[float, PlannedRun], ends: Mapping[str, float]) -> None:
    """Add learning rates to a grid as long as its best known end lies at its edge and all ends are known."""
    lowest, highest = min(grid), max(grid)
    while all(run.name in ends for run in grid.values()):
        best = min(sorted(grid), key=lambda rate: ends[grid[rate].name])  # of equals the lowest
        if best == max(grid) and max(grid) < highest * 2**WIDEST:
            rate = 2 * best
        elif best == min(grid) and min(grid) > lowest / 2**WIDEST:
            rate = best / 2
        else:
            return
        run = grid[best]
        grid[rate] = replace(run, method=run.method.at_learning_rate(rate))


def _but_learning_rate(method: Method) -> str:
    """Return what two points of a method's grid share that differ in their learning rate alone."""
    settings: dict[str, Any] = method.to_dict()
    settings[method.optimizer.name].pop("learning_rate")
    return repr(settings)


def end_losses(recipe: Recipe, folder: OutputFolder) -> dict[str, float]:
    """Return the held-out loss at the end of each finished run, infinite where it diverged.

    It is the mean over the tasks, each at the end of the run; where each was learned alone, at its own end.
    """
    orders = {run.method_name: run.order for run in recipe.runs()}
    tasks = [task.name for task in recipe.sequence]
    found = {}
    for name, runs in folder.finished_runs.items():
        ends = dict.fromkeys(tasks, runs[0].points[-1])
        if orders.get(runs[0].method) == "alone":
            ends = {point.task: point for point in runs[0].points if point.task is not None}
        losses = [ends[task].learned[task]["loss"] for task in tasks]
        found[name] = fmean(math.inf if loss is None else loss for loss in losses)
    return found

"""`mofo tune`: method, learning rate and fraction for one's own data within a time limit, by successive halving.

Many candidates train for a few steps; the best third of them trains anew for three times as many, and so on until two
are left (arXiv 1502.07943, 1603.06560). All are held within the budget of forgetting by pulling their ends back, so
that they can be ranked by what they learned alone. Each round is a comparison in a folder of its own, which resumes by
itself; `tune.json` has what was decided before the first.

Short runs favour learning rates that are too high for long ones, which is why the last round is as long as the time
allows, and why what is printed is a proposal with its evidence.
"""

from __future__ import annotations

import math
import random
import re
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mofo.compare.folder import OutputFolder
from mofo.compare.jobs import compare
from mofo.compare.prepare import check_folder, prepare
from mofo.compare.recipe import Recipe, make_recipe
from mofo.compare.tune import end_losses
from mofo.errors import UserError
from mofo.files import read_json, sole_owner_of, write_json
from mofo.methods.method import Method
from mofo.results import Record, Results

if TYPE_CHECKING:
    from rich.console import Console

FILE_NAME = "tune.json"

TIMING = "timing"
"""Folder of the run that is timed before the first round."""

KEPT = 3
"""One of so many candidates goes on to the next round, with as many times the steps."""

FEWEST_STEPS = 8
"""Steps of the first round at least: what shorter runs rank says nothing of longer ones."""

TIMED_STEPS = 4
"""Steps of the run that is timed before the first round."""

USABLE = 0.9
"""Share of the time that is planned for; what runs take varies."""

FLAGS = ("fraction", "fraction_schedule", "fraction_end", "momentum_share", "score", "state_dtype")
"""Settings of MoFO that are flags of `mofo sft`."""


class Round(Record):
    """One round of the search."""

    candidates: int = Field(description="how many train")
    steps: int = Field(description="for how many steps each")


class Search(Record):
    """`tune.json`: what was decided before the first round, and how much of the time is gone."""

    recipe: dict[str, Any] = Field(description="what is searched, as of `mofo compare`")
    budget: dict[str, float] = Field(description="the probe and its bound")
    seconds: float = Field(description="the time that was given")
    spent: float = Field(default=0.0, description="seconds that are gone")
    seconds_per_step: float | None = Field(default=None, description="as timed")
    overhead: float | None = Field(default=None, description="seconds of a run besides its steps, as timed")
    rounds: list[Round] = Field(default=[], description="what follows from that")


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        method: The best candidate of the longest round that was finished far enough.
        results: The results of that round.
        folder: Its folder.
        rounds: For each round that was begun, how many candidates ended and for how many steps they were trained.
        command: The command of the full run.
        has_learned: Whether the best learned anything.
    """

    method: Method
    results: Results
    folder: Path
    rounds: list[Round]
    command: str
    has_learned: bool


def search(
    values: Mapping[str, Any],
    output: Path,
    *,
    budget: Mapping[str, float],
    seconds: float,
    jobs: int = 1,
    overwrite: bool = False,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """Find a method and its settings within a time limit. Interrupted at any moment, the same call resumes.

    Args:
        values: A recipe: the methods and settings to search, the data, and the length of the full run.
        output: The folder of the rounds.
        budget: One probe, and by how much it may get worse.
        seconds: The time limit. A run that has begun is not cut off; none begins that is expected to end after it.
        jobs: Runs at the same time.
        overwrite: Replace an earlier search in the folder.
        console: Where progress is shown; standard error by default.
        clock: Returns seconds.

    Raises:
        UserError: The recipe cannot be searched, the folder holds something else, or the time is too short.
    """
    recipe = make_recipe(values)
    candidates = candidates_of(recipe, budget)
    full = prepare(recipe, OutputFolder(output / "full"), overwrite=False, dry_run=True)
    assert full is not None, "a folder of that name is never made"
    check_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    with sole_owner_of(output / "search"):
        state = _begin(Search(recipe=recipe.to_dict(), budget=dict(budget), seconds=seconds), output, overwrite)
        began = clock() - state.spent

        def note(**changes: Any) -> Search:
            found = state.model_copy(update={"spent": clock() - began, **changes})
            write_json(output / FILE_NAME, found.model_dump(mode="json"))
            return found

        try:
            if not state.rounds:
                costliest = max(candidates, key=lambda method: len(method.extras))
                per_step, overhead = _timed(recipe, costliest, budget, output, console)
                left = seconds - (clock() - began)
                rounds = plan_rounds(len(candidates), full.steps, left * jobs, per_step, overhead)
                state = note(seconds_per_step=per_step, overhead=overhead, rounds=rounds)
            return _play(recipe, state, candidates, output, jobs, console, lambda: seconds - (clock() - began))
        finally:
            note()


def candidates_of(recipe: Recipe, budget: Mapping[str, float]) -> list[Method]:
    """Return the methods to try, in an order in which the first few are spread over all.

    Raises:
        UserError: `mofo sft` could not run one of them, or the recipe asks for what a search does not do.
    """
    from mofo.trainers.budget import Budget
    from mofo.trainers.method import check_any_trainer

    Budget(budget)
    if len(budget) > 1:
        raise UserError(f"mofo tune holds one probe, and the budget has {len(budget)}: {', '.join(budget)}.")
    if len(recipe.sequence) > 1:
        raise UserError("mofo tune searches for one task, and the recipe has several.")
    if recipe.tunes or len(recipe.seeds) > 1:
        raise UserError("mofo tune widens no grids and tries one seed: leave --tune out, and give one of --seeds.")
    methods = list({run.method.run_name: run.method for run in recipe.runs()}.values())
    for method in methods:
        check_any_trainer(method)
        if getattr(method.optimizer, "blocks", "tensor") != "tensor":
            raise UserError("mofo tune ends in a command of mofo sft, which has no blocks: leave mofo.blocks out.")
        if any(part.name == "budget" for part in method.extras):
            raise UserError("mofo tune gives every method its budget: leave the part budget out of --methods.")
    if len(methods) < 2:
        raise UserError("There is one candidate, and nothing to choose: give several --learning-rates or --methods.")
    random.Random(0).shuffle(methods)
    return methods


def plan_rounds(candidates: int, full_steps: int, seconds: float, per_step: float, overhead: float) -> list[Round]:
    """Return the rounds that fit into a time, as long as they can be.

    Args:
        candidates: How many there are; where the time does not suffice, fewer are tried.
        full_steps: Steps of the full run: no round is longer.
        seconds: The time, times the runs at the same time.
        per_step: Seconds of a step.
        overhead: Seconds of a run besides its steps.

    Raises:
        UserError: Not even two candidates can be tried.
    """
    shortest = min(FEWEST_STEPS, full_steps)
    for count in range(candidates, 1, -1):
        counts = [count]
        while counts[-1] > 2:
            counts.append(max(2, math.ceil(counts[-1] / KEPT)))
        longest = max(shortest, full_steps // KEPT ** (len(counts) - 1))
        weight = sum(n * KEPT**i for i, n in enumerate(counts))  # steps of all rounds by those of the first
        steps = min(longest, int((USABLE * seconds - sum(counts) * overhead) / (weight * per_step)))
        if steps >= shortest:
            return [Round(candidates=n, steps=min(full_steps, steps * KEPT**i)) for i, n in enumerate(counts)]
    needed = 2 * (overhead + shortest * per_step) / USABLE
    raise UserError(
        f"The time is too short: a step takes {per_step:.2g} s and a run {overhead:.0f} s more, so two candidates need "
        f"{needed / 60:.1f} minutes beyond the {TIMED_STEPS} steps that were timed; give more with --time."
    )


def parse_time(text: str) -> float:
    """Return the seconds of a time such as 30m, 2h or 90s.

    Raises:
        UserError: It is none, or nothing.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if seconds <= 0:
        raise UserError(f"--time is {text!r}, expected a time above 0 such as 30m, 2h or 90s.")
    return seconds


def full_command(recipe: Recipe, method: Method, budget: Mapping[str, float]) -> str:
    """Return the command that trains a method in full, as the recipe's own run would be but for the budget."""
    optimizer = method.optimizer
    mofo = {name: value for name, value in optimizer if name in FLAGS} if optimizer.name == "mofo" else {}
    fields = {part.name: type(part).model_fields for part in method.parts}
    own = {*mofo, "learning_rate", "weight_decay"}
    others = [
        f"{part.name}.{name}={value}"
        for part in method.parts
        for name, value in part
        if value != fields[part.name][name].default and not (part is optimizer and name in own)
    ]
    flags: dict[str, Any] = {
        "model_name_or_path": recipe.model,
        "dataset_name": recipe.data,
        **(
            {"columns": ",".join(f"{name}={field}" for name, field in recipe.columns.items())} if recipe.columns else {}
        ),
        "method": "+".join(part.name for part in method.parts),
        "learning_rate": f"{optimizer.learning_rate:g}",
        **{name: value for name, value in mofo.items() if value != fields["mofo"][name].default or name == "fraction"},
        **({"method_settings": ",".join(others)} if others else {}),
        **({"weight_decay": optimizer.weight_decay} if optimizer.weight_decay else {}),
        "budget": ",".join(f"{probe}={bound:g}" for probe, bound in budget.items()),
        "per_device_train_batch_size": recipe.batch_size,
        **({"gradient_accumulation_steps": a} if (a := recipe.gradient_accumulation) > 1 else {}),
        **({"num_train_epochs": recipe.epochs or 1} if recipe.steps is None else {"max_steps": recipe.steps}),
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": recipe.warmup,
        "max_length": recipe.max_length,
        "output_dir": "tuned",
    }
    return "mofo sft " + " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in flags.items())


def _begin(wanted: Search, output: Path, overwrite: bool) -> Search:
    """Return the search of a folder, or begin it.

    Raises:
        UserError: The folder holds something else, or a search of something else.
    """
    file = output / FILE_NAME
    others = [path for path in output.iterdir() if not path.name.startswith(".")]
    if others and not file.exists():
        raise UserError(f"{output} exists and is not a folder of mofo tune: choose another --output.")
    if file.exists() and not overwrite:
        found = Search.model_validate(read_json(file))
        same = {"recipe", "budget", "seconds"}
        if found.model_dump(include=same) != wanted.model_dump(include=same):
            raise UserError(f"{output} has a search of something else: give --overwrite, or choose another --output.")
        return found
    for round_folder in (output / TIMING, *output.glob("round-*")):
        shutil.rmtree(round_folder, ignore_errors=True)
    write_json(file, wanted.model_dump(mode="json"))
    return wanted


def _timed(
    recipe: Recipe, method: Method, budget: Mapping[str, float], output: Path, console: Console | None
) -> tuple[float, float]:
    """Return the seconds of a step and of all else of a run, by a short one.

    What it keeps of the base is made once, by the first run of a round if not before, and not counted.
    """
    short = _round_recipe(recipe, [method], budget, TIMED_STEPS)
    results = compare(short, output / TIMING, console=console)
    folder, (run,) = OutputFolder(output / TIMING), results.runs
    of_the_base = [folder.path / "base.json", *(path for path in folder.shared.rglob("*") if path.is_file())]
    assert run.seconds is not None
    assert run.seconds.training is not None
    ended = (folder.path / "runs" / run.name / "result.json").stat().st_mtime
    began = max(path.stat().st_mtime for path in of_the_base)
    per_step = run.seconds.training / TIMED_STEPS
    return per_step, max(0.0, ended - began - run.seconds.training)


def _play(
    recipe: Recipe,
    state: Search,
    candidates: Sequence[Method],
    output: Path,
    jobs: int,
    console: Console | None,
    left: Callable[[], float],
) -> Found:
    """Do the rounds as far as the time allows, and return what they found."""
    found: Found | None = None
    base, rounds = output / TIMING, []
    kept = list(candidates[: state.rounds[0].candidates])
    for number, planned in enumerate(state.rounds, 1):
        kept = kept[: planned.candidates]
        round_recipe = _round_recipe(recipe, kept, state.budget, planned.steps)
        takes = (state.overhead or 0.0) + planned.steps * (state.seconds_per_step or 0.0)
        folder = output / f"round-{number}"
        results = compare(
            round_recipe, folder, jobs=jobs, console=console, base=base, is_over=partial(_is_short, left, takes)
        )
        losses = end_losses(round_recipe, OutputFolder(folder))
        rounds.append(Round(candidates=len(losses), steps=planned.steps))
        base = folder
        by_name = {run.name: method for run, method in zip(round_recipe.runs(), kept, strict=True)}
        if len(losses) < min(2, len(kept)):  # there is nothing to choose between
            break
        ranking = sorted(losses, key=lambda name: losses[name])
        kept = [by_name[name] for name in ranking]
        command = full_command(recipe, kept[0], state.budget)
        learned = results.base.learned[recipe.sequence[0].name]["loss"]
        has_learned = learned is None or losses[ranking[0]] < learned
        found = Found(kept[0], results, folder, list(rounds), command, has_learned)
        if len(losses) < len(by_name):  # the time is over
            break
    if found is None:
        raise UserError("The time was over before two candidates had ended: give more with --time, and --overwrite.")
    return found


def _is_short(left: Callable[[], float], takes: float) -> bool:
    return left() < takes


def _round_recipe(recipe: Recipe, methods: Sequence[Method], budget: Mapping[str, float], steps: int) -> Recipe:
    """Return the comparison of a round: each candidate with the budget, which pulls its end back."""
    ((probe, bound),) = budget.items()
    extra = {"budget": {"probe": probe, "bound": bound, "every": steps}}
    values = recipe.to_dict() | {
        "methods": [method.to_dict() | extra for method in methods],
        "settings": {},
        "steps": steps,
        "epochs": None,
        "points": 1,
        "probes": list(dict.fromkeys([*recipe.probes, probe])),
        "samples": 0,
        "save": "none",
        "reference": None,
    }
    return make_recipe(values)

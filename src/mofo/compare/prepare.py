"""Before the first job: rows, plan and disk are checked, and the output folder is made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from mofo.compare.estimate import Estimate, estimate
from mofo.compare.folder import OutputFolder
from mofo.compare.recipe import Recipe
from mofo.compare.tasks import TaskSettings
from mofo.data.forms import Row
from mofo.data.rows import GENERATED, drop_held_out, load_rows, split_rows
from mofo.data.tokens import WHOLE, encode_rows, find_row
from mofo.data.usage import check_positions, check_tokens, usage
from mofo.errors import UserError
from mofo.files import check_place, new_folder, write_jsonl, write_text
from mofo.measure import check_probe_specs
from mofo.models.limits import folder_positions, folder_tokens
from mofo.models.load import load_tokenizer, local_folder
from mofo.models.precision import choose_precision
from mofo.models.quantised import quantisation
from mofo.results import Plan, TaskPlan


class _Data(NamedTuple):
    """Rows of a task to train on and to measure, where they come from, and how many are neither, by reason."""

    training: list[Row]
    held_out: list[Row]
    sources: dict[str, list[Row]]
    left_out: dict[str, int]


def prepare(recipe: Recipe, folder: OutputFolder, *, overwrite: bool, dry_run: bool = False) -> Estimate | None:
    """Make the folder with the recipe, the plan and the data, or check that it is there.

    Args:
        recipe: What to do.
        folder: The output folder.
        overwrite: Replace what an earlier comparison left in the folder.
        dry_run: Check everything and write nothing.

    Returns:
        What the comparison will take; None for one that is resumed.

    Raises:
        UserError: The recipe's input cannot be used, the disk is too full, or the folder holds something else.
    """
    check_folder(folder.path)
    check_probe_specs((*recipe.probes, *recipe.end_probes), recipe.options)
    if recipe.learned:
        check_probe_specs([recipe.learned], recipe.options)
    output = folder.path
    in_use = output.exists() and any(output.iterdir())
    if in_use and not folder.is_prepared:
        raise UserError(f"{output} exists and is not a folder of mofo compare: choose another --output.")
    if in_use and not overwrite and not dry_run:
        _resume(recipe, folder)
        return None
    data = _load_data(recipe)
    model_folder = local_folder(recipe.model)
    _check_trainable(recipe.model, model_folder)
    plan, lengths = _plan(recipe, model_folder, data)
    found = estimate(recipe, plan.precision, [task.steps for task in plan.tasks], lengths)
    _check_disk(found, output)
    if dry_run:
        return found
    with new_folder(output) as scratch:
        made = OutputFolder(scratch)
        _write_rows(made, data)
        made.write_plan(plan)
        _write_recipe(recipe, made)
    return found


def check_folder(output: Path) -> None:
    """Refuse an output folder that cannot be made or written.

    Raises:
        UserError: There is a file at its place or above it, or nothing can be written there.
    """
    check_place(output, "--output")


def _resume(recipe: Recipe, folder: OutputFolder) -> None:
    """Check that a folder is this recipe's, and make its rows again where they were not kept."""
    _check_continues(recipe, folder)
    if not folder.held_out_rows(len(recipe.sequence) - 1).exists():
        data = _load_data(recipe)
        plan, _ = _plan(recipe, local_folder(recipe.model), data)
        earlier = folder.plan
        if plan.model_copy(update={"precision": earlier.precision, "rows": earlier.rows}) != earlier:
            raise UserError(
                f"{folder.path} was made with other data: {folder.plan.training_rows} training and "
                f"{folder.plan.held_out_rows} held-out rows, now {plan.training_rows} and {plan.held_out_rows}."
            )
        _write_rows(folder, data)
    _write_recipe(recipe, folder)


def _write_rows(folder: OutputFolder, data: Sequence[_Data]) -> None:
    for task, rows in enumerate(data):
        write_jsonl(folder.training_rows(task), rows.training)
        write_jsonl(folder.held_out_rows(task), rows.held_out)


def _check_continues(recipe: Recipe, folder: OutputFolder) -> None:
    """Refuse a folder whose runs are not this recipe's."""
    changed = recipe.changes(folder.recipe)
    finished = folder.finished_runs
    runs = recipe.runs()
    tuned = {run.method_name for run in runs if run.tune}  # may have runs that tuning would ask for only later
    kept = {name for name, trajectories in finished.items() if trajectories[0].method in tuned}
    begun = [] if tuned else folder.begun_runs
    lost = sorted({*begun, *finished} - kept - {run.name for run in runs})
    if changed or lost:
        difference = "; ".join(changed) or f"this recipe lacks its runs {', '.join(lost)}"
        raise UserError(
            f"{folder.path} holds another comparison ({difference}): choose another --output, or --overwrite it."
        )


def _load_data(recipe: Recipe) -> list[_Data]:
    """Return the rows of each task."""
    return [_load_task(task, recipe.rows_per_step) for task in recipe.sequence]


def _load_task(task: TaskSettings, batch: int) -> _Data:
    """Return training and held-out rows of a task that share none."""
    columns, held_out_rows = task.columns, task.held_out_rows or 0
    if task.held_out is not None:
        held_out = load_rows(task.held_out, split="test", limit=held_out_rows, seed=1, columns=columns)
        rows = load_rows(task.data, limit=task.train_rows, columns=columns)
        training = drop_held_out(rows, held_out)
        left_out = {"training rows left out, as they are held out": len(rows) - len(training)}
        sources = {task.data: rows, task.held_out: held_out}
    else:
        wanted = task.train_rows or _rows_needed(task, batch)
        limit = wanted + held_out_rows if task.data.startswith(GENERATED) else None
        rows = load_rows(task.data, limit=limit, columns=columns)
        training, held_out = split_rows(rows, held_out_rows, seed=0)
        left_out = {"repeated rows left out": len(rows) - len(training) - len(held_out)}
        sources = {task.data: rows}
        if limit is None:
            training = training[: task.train_rows]
    if not training:
        raise UserError(f"{task.data} has no row that is not held out too: give training rows of their own.")
    return _Data(training, held_out, sources, {reason: count for reason, count in left_out.items() if count})


def _rows_needed(task: TaskSettings, batch: int) -> int:
    """Return how many problems to generate: as many as the steps use, or 1000 where epochs decide."""
    return task.steps * batch if task.steps else 1000


def _plan(recipe: Recipe, model_folder: Path, data: Sequence[_Data]) -> tuple[Plan, list[list[int]]]:
    """Return the plan, and the tokens of each row of each task that can be trained on."""
    tokenizer = load_tokenizer(model_folder, trust_remote_code=recipe.trust_remote_code)
    positions = folder_positions(model_folder, trust_remote_code=recipe.trust_remote_code)
    known = folder_tokens(model_folder, trust_remote_code=recipe.trust_remote_code)
    tasks: list[TaskPlan] = []
    reasons: dict[str, int] = {}
    lengths: list[list[int]] = []
    for task, given in zip(recipe.sequence, data, strict=True):
        where = f" ({task.name})" if recipe.tasks else ""
        reasons |= {f"{reason}{where}": count for reason, count in given.left_out.items()}
        usable = {}
        for kind, rows in (("training", given.training), ("held-out", given.held_out)):
            examples = encode_rows(rows, tokenizer, WHOLE, turns=recipe.turns, place=find_row(given.sources))
            used = usage(examples, recipe.max_length)
            if not used.usable:
                raise UserError(
                    f"No {kind} row{where} has a completion within max_length = {recipe.max_length} tokens: raise "
                    "--max-length."
                )
            check_positions(used.longest, positions, recipe.model)
            check_tokens(examples, known, recipe.model)
            reasons |= {f"{reason}{where}": count for reason, count in used.by_reason(kind).items()}
            if recipe.answers and not all(example["prompt_ids"] for example in examples):
                raise UserError(f"answers is {recipe.answers}, but rows of text ask nothing: leave --answers out.")
            usable[kind] = used.usable
            if kind == "training":
                lengths.append([min(len(example["input_ids"]), recipe.max_length) for example in examples])
        steps = task.total_steps(usable["training"], recipe.rows_per_step)
        tasks.append(TaskPlan(steps=steps, training_rows=usable["training"], held_out_rows=usable["held-out"]))
    plan = Plan(
        total_steps=sum(task.steps for task in tasks),
        training_rows=sum(task.training_rows for task in tasks),
        held_out_rows=sum(task.held_out_rows for task in tasks),
        precision=choose_precision("bfloat16" if recipe.weights == "bfloat16" else recipe.precision),
        rows=reasons,
        tasks=tasks,
    )
    return plan, lengths


def _check_trainable(model: str, folder: Path) -> None:
    """Refuse a model whose stored weights are quantised: making them plain to train them is for its owner to do."""
    if method := quantisation(folder):
        raise UserError(
            f"The weights of {model} are quantised ({method}) and cannot be trained: give the model in 16 or 32 bits."
        )


def _check_disk(found: Estimate, output: Path) -> None:
    """Refuse to begin what would fill the disk."""
    parent = next(folder for folder in output.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if free < found.disk:
        raise UserError(
            f"{parent} has {free / 1e9:.1f} GB free and the comparison needs {found.disk / 1e9:.1f} GB: "
            "free some, choose another --output, or keep no models with --save none."
        )


def _write_recipe(recipe: Recipe, folder: OutputFolder) -> None:
    values = json.loads(json.dumps(recipe.to_dict()))
    text = yaml.safe_dump(values, sort_keys=False)
    write_text(folder.recipe_file, f"# mofo compare --recipe FILE makes this comparison again\n{text}")

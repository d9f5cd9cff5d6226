"""Before the first job: rows, plan and disk are checked, and the output folder is made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml

from mofo.compare.estimate import Estimate, estimate
from mofo.compare.folder import OutputFolder
from mofo.compare.recipe import Recipe
from mofo.data.rows import GENERATED, Row, drop_held_out, load_rows, split_rows
from mofo.data.tokens import encode, has_labels
from mofo.errors import UserError
from mofo.files import new_folder, write_jsonl, write_text
from mofo.measure import check_probe_specs
from mofo.models.load import load_tokenizer, local_folder
from mofo.models.precision import choose_precision
from mofo.models.quantised import quantisation
from mofo.results import Plan


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
    check_probe_specs(recipe.probes)
    output = folder.path
    in_use = output.exists() and any(output.iterdir())
    if in_use and not folder.is_prepared:
        raise UserError(f"{output} exists and is not a folder of mofo compare: choose another --output.")
    if in_use and not overwrite and not dry_run:
        _resume(recipe, folder)
        return None
    training, held_out = _load_data(recipe)
    model_folder = local_folder(recipe.model)
    _check_trainable(recipe.model, model_folder)
    plan, lengths = _plan(recipe, model_folder, training, held_out)
    found = estimate(recipe, plan.total_steps, lengths)
    _check_disk(found, output)
    if dry_run:
        return found
    with new_folder(output) as scratch:
        made = OutputFolder(scratch)
        _write_rows(made, training, held_out)
        made.write_plan(plan)
        _write_recipe(recipe, made)
    return found


def _resume(recipe: Recipe, folder: OutputFolder) -> None:
    """Check that a folder is this recipe's, and make its rows again where they were not kept."""
    _check_continues(recipe, folder)
    if not folder.held_out_rows.exists():
        training, held_out = _load_data(recipe)
        plan, _ = _plan(recipe, local_folder(recipe.model), training, held_out)
        if plan.model_copy(update={"precision": folder.plan.precision}) != folder.plan:
            raise UserError(
                f"{folder.path} was made with other data: {folder.plan.training_rows} training and "
                f"{folder.plan.held_out_rows} held-out rows, now {plan.training_rows} and {plan.held_out_rows}."
            )
        _write_rows(folder, training, held_out)
    _write_recipe(recipe, folder)


def _write_rows(folder: OutputFolder, training: list[Row], held_out: list[Row]) -> None:
    folder.training_rows.parent.mkdir()
    write_jsonl(folder.training_rows, training)
    write_jsonl(folder.held_out_rows, held_out)


def _check_continues(recipe: Recipe, folder: OutputFolder) -> None:
    """Refuse a folder whose runs are not this recipe's."""
    changed = recipe.changes(folder.recipe)
    finished = folder.finished_runs
    if recipe.tune:  # may have made runs that it would ask for only later
        methods = {run.method.name for run in recipe.runs()}
        lost = sorted(name for name, runs in finished.items() if runs[0].method not in methods)
    else:
        lost = sorted({*folder.begun_runs, *finished} - {run.name for run in recipe.runs()})
    if changed or lost:
        difference = "; ".join(changed) or f"this recipe lacks its runs {', '.join(lost)}"
        raise UserError(
            f"{folder.path} holds another comparison ({difference}): choose another --output, or --overwrite it."
        )


def _load_data(recipe: Recipe) -> tuple[list[Row], list[Row]]:
    """Return training and held-out rows that share none."""
    if recipe.held_out is not None:
        held_out = load_rows(recipe.held_out, split="test", limit=recipe.held_out_rows, seed=1)
        training = drop_held_out(load_rows(recipe.data, limit=recipe.train_rows), held_out)
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
    """Return how many problems to generate: as many as the steps use, or 1000 where epochs decide."""
    return recipe.steps * recipe.rows_per_step if recipe.steps else 1000


def _plan(recipe: Recipe, model_folder: Path, training: list[Row], held_out: list[Row]) -> tuple[Plan, list[int]]:
    """Return the plan, and the tokens of each row that can be trained on."""
    tokenizer = load_tokenizer(model_folder, trust_remote_code=recipe.trust_remote_code)
    lengths: dict[str, list[int]] = {}
    for name, rows in (("training", training), ("held-out", held_out)):
        examples = [encode(row, tokenizer, recipe.max_length) for row in rows]
        lengths[name] = [len(example["input_ids"]) for example in examples if has_labels(example)]
        if not lengths[name]:
            raise UserError(
                f"No {name} row has a completion within max_length = {recipe.max_length} tokens: raise --max-length."
            )
    plan = Plan(
        total_steps=recipe.total_steps(len(lengths["training"])),
        training_rows=len(lengths["training"]),
        held_out_rows=len(lengths["held-out"]),
        precision=choose_precision("bfloat16" if recipe.weights == "bfloat16" else recipe.precision),
    )
    return plan, lengths["training"]


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

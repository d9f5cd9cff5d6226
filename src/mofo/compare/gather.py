"""`results.json` from what the jobs of an output folder have left so far."""

from __future__ import annotations

from collections.abc import Sequence

from mofo.compare.folder import OutputFolder
from mofo.compare.recipe import PlannedRun, Recipe
from mofo.compare.tune import planned_runs
from mofo.machine import hardware, versions
from mofo.results import Results, Run, write_results


def gather(recipe: Recipe, folder: OutputFolder) -> Results:
    """Write `results.json` and return it; the base must have been measured."""
    base = folder.base
    assert base is not None
    planned = planned_runs(recipe, folder)
    finished = folder.finished_runs
    in_order = dict.fromkeys([*(run.name for run in planned), *finished])
    done = [run for name in in_order for run in finished.get(name, [])]
    methods = {run.method.name: run.method for run in planned}
    keys = [(run.method.name, key) for run in planned for key in run.method.settings]
    keys += [(run.method, key) for run in done for key in run.settings]  # variants have settings of their own
    results = Results(
        complete=all(run.name in finished for run in planned),
        model=recipe.model,
        tasks=[recipe.task],
        recipe=recipe.to_dict(),
        plan=folder.plan,
        versions=versions("torch", "transformers"),
        hardware=hardware(),
        reference=recipe.reference_method(),
        methods={name: method.info for name, method in methods.items()},
        settings={key: methods[name].setting_info(key) for name, key in keys},
        metrics=base.metrics,
        base=base.point,
        samples=base.samples,
        runs=[_with_way_back(run, recipe, folder, planned) for run in done],
    )
    write_results(results, folder.path)
    return results


def _with_way_back(run: Run, recipe: Recipe, folder: OutputFolder, planned: Sequence[PlannedRun]) -> Run:
    """Return a run with its model, if that was kept, and with the flags that make the run or its variant's again."""
    kept = folder.run(run.name).model
    origin = next((p for p in planned if run.name == p.name or run.name.startswith(f"{p.name}-")), None)
    return run.model_copy(
        update={
            "model": str(kept.relative_to(folder.path)) if kept.exists() else None,
            "command": _flags(origin, recipe) if origin else None,
        }
    )


def _flags(run: PlannedRun, recipe: Recipe) -> str:
    """Return the flags that make a run of the recipe alone."""
    flags = [run.method.flags(recipe.settings), f"--seeds {run.seed}"]
    if recipe.reference is not None:
        flags.append(f"--reference {run.method.name}")
    return " ".join([*flags, *(["--no-tune"] if recipe.tune else [])])

"""`results.json` from what the jobs of an output folder have left so far."""

from __future__ import annotations

from collections.abc import Sequence

from mofo.compare.folder import LEARNED, OutputFolder, answers_in
from mofo.compare.planned import PlannedRun
from mofo.compare.recipe import Recipe
from mofo.compare.tune import planned_runs
from mofo.machine import hardware, versions
from mofo.measure.answers import answers_to, read_answers
from mofo.results import FILE_NAME, Results, Run, Task, load_results, write_results

MOST_CHARACTERS = 300
"""Characters of a question that `results.json` quotes."""


def gather(recipe: Recipe, folder: OutputFolder) -> Results:
    """Write `results.json` and return it; the base must have been measured."""
    base = folder.base
    assert base is not None
    planned = planned_runs(recipe, folder)
    finished = folder.finished_runs
    in_order = dict.fromkeys([*(run.name for run in planned), *finished])
    done = [run for name in in_order for run in finished.get(name, [])]
    methods = {run.method_name: run for run in planned}
    keys = [(run.method_name, key) for run in planned for key in run.method.settings]
    keys += [(run.method, key) for run in done for key in run.settings]  # variants have settings of their own
    missing = [run.name for run in planned if run.name not in finished]
    results = Results(
        complete=not missing,
        missing=missing,
        model=recipe.model,
        tasks=[Task(name=task.name, data=task.data) for task in recipe.sequence],
        recipe=recipe.to_dict(),
        plan=folder.plan,
        versions=versions("torch", "transformers"),
        hardware=hardware(),
        reference=recipe.reference_method(),
        methods={name: run.method_info for name, run in methods.items()},
        settings={key: methods[name].method.setting_info(key) for name, key in keys},
        metrics=base.metrics,
        base=base.point,
        samples=base.samples,
        questions=_questions(recipe, folder, done),
        runs=[_with_way_back(run, recipe, folder, planned) for run in done],
    )
    write_results(results, folder.path)
    return results


def _questions(recipe: Recipe, folder: OutputFolder, runs: Sequence[Run]) -> dict[str, dict[str, dict[int, str]]]:
    """Return the texts of the questions that some run lost or won, cut where they are long.

    They come from the base's answers, or where these were not kept from earlier results.
    """
    earlier = load_results(folder.path).questions if (folder.path / FILE_NAME).exists() else {}
    changed: dict[str, dict[str, set[int]]] = {}
    for run in runs:
        paired = run.points[-1].paired
        learned = [(LEARNED, numbers) for numbers in paired.learned.values()]
        for source, numbers in [*paired.forgotten.items(), *learned]:
            for name, found in numbers.items():
                for number in (*found.lost_questions, *found.won_questions):
                    changed.setdefault(source, {}).setdefault(name, set()).add(number)
    texts: dict[str, dict[str, dict[int, str]]] = {}
    for source, names in changed.items():
        answers = read_answers(answers_in(folder.path), source)
        for name, places in names.items():
            asked = {place: answer.question for place, answer in enumerate(answers_to(answers, name))}
            asked = asked or earlier.get(source, {}).get(name, {})
            found_texts = {place: _brief(asked[place]) for place in sorted(places) if place in asked}
            if found_texts:
                texts.setdefault(source, {})[name] = found_texts
    return texts


def _brief(question: str) -> str:
    """Return a question without line breaks, and without its middle if it is long."""
    text = " ".join(question.split())
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS // 2]} … {text[-MOST_CHARACTERS // 2 :]}"


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
    if recipe.order != ("sequence",) or run.order != "sequence":
        flags.append(f"--order {run.order}")
    if recipe.reference is not None:
        flags.append(f"--reference {run.method_name}")
    return " ".join([*flags, *(["--no-tune"] if recipe.tune else [])])

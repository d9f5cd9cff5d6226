"""The recipes of `experiments/continual`: checked against data of TRACE's form, without training."""

import json
import runpy
from pathlib import Path

import pytest

from mofo.compare.folder import OutputFolder
from mofo.compare.prepare import prepare
from mofo.compare.recipe import make_recipe, override, read_recipe
from mofo.files import read_jsonl

FOLDER = Path(__file__).parents[2] / "experiments" / "continual"
METHODS = ["adamw", "adamw+hft", "mofo", "adamw+gem", "mofo+gem", "adamw+replay", "mofo+replay"]  # the paper's


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """Writes a few rows of each task in TRACE's form and makes the folder above them the current one."""

    def write(folder, names):
        for name in names:
            for part, count in (("train", 6), ("test", 3)):
                rows = [
                    {"prompt": f"{part} {n} of {name}?", "answer": f"A\nBecause. {'x ' * 20}"} for n in range(count)
                ]
                (tmp_path / folder / name).mkdir(parents=True, exist_ok=True)
                (tmp_path / folder / name / f"{part}.json").write_text(json.dumps(rows))
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return write


def dry_run(file, tiny_model, tmp_path):
    """Check a recipe with the tiny model, and return it with what it will take."""
    values = read_recipe(FOLDER / file)
    recipe = make_recipe(override(values, {"model": tiny_model, "precision": "auto"}))
    return recipe, prepare(recipe, OutputFolder(tmp_path / "out"), overwrite=False, dry_run=True)


def methods_of(recipe):
    return list(dict.fromkeys(run.method.name for run in recipe.runs()))


def test_small_recipe_reads_what_prepare_writes(trace, tiny_model):
    experiment = runpy.run_path(str(FOLDER / "prepare.py"))
    tmp_path = trace("datasets/trace", experiment["TASKS"])
    experiment["prepare"](tmp_path / "datasets", tmp_path / "runs" / "continual-data")
    recipe, found = dry_run("recipe.yaml", tiny_model, tmp_path)
    assert [task.name for task in recipe.sequence] == list(experiment["TASKS"])
    assert methods_of(recipe) == ["adamw", "adamw+self-distill", *METHODS[1:]]
    assert found.steps == 5 * 20
    assert found.runs == 11  # adamw on all tasks at once and on each alone too, and mofo at two rates


def test_recipe_of_the_papers_size_has_the_eight_tasks_and_seven_methods(trace, tiny_model):
    names = [task["name"] for task in read_recipe(FOLDER / "trace.yaml")["tasks"]]
    recipe, found = dry_run("trace.yaml", tiny_model, trace("runs/trace", names))
    assert names == ["C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm", "NumGLUE-ds", "20Minuten"]
    assert [task.epochs for task in recipe.sequence] == [5, 3, 7, 5, 3, 5, 5, 7]
    assert methods_of(recipe) == METHODS
    assert recipe.settings["fraction"] == 0.05
    assert found.steps == sum(-(-6 * epochs // 128) for epochs in (5, 3, 7, 5, 3, 5, 5, 7))


def test_prepare_keeps_the_end_of_code_and_the_first_sentences_of_reasons(trace):
    experiment = runpy.run_path(str(FOLDER / "prepare.py"))
    row_of = experiment["row_of"]
    code = row_of("Py150", {"prompt": "<s> " + "token " * 300 + "last <EOL>", "answer": "x = 1 "})
    assert code["question"].endswith("token last <EOL>")
    assert len(code["question"]) < 560
    assert code["answer"] == "x = 1"
    reasons = row_of("ScienceQA", {"prompt": "Q", "answer": "B\n" + "It is so. " * 60})
    assert reasons["answer"].startswith("B\nIt is so.")
    assert reasons["answer"].endswith("It is so.")
    assert 300 < len(reasons["answer"]) < 320
    tmp_path = trace("datasets/trace", experiment["TASKS"])
    experiment["prepare"](tmp_path / "datasets", tmp_path / "made")
    assert len(read_jsonl(tmp_path / "made" / "FOMC-train.jsonl")) == 6

"""The part `budget` in comparisons: what it measures is what the comparison measures, and a run may end early."""

from pathlib import Path

import pytest

from mofo.compare.fine_tuning import FineTuning
from mofo.compare.folder import OutputFolder
from mofo.compare.job import Job, measure_base
from mofo.compare.prepare import prepare
from mofo.compare.recipe import make_recipe, override, read_recipe
from mofo.errors import UserError

RECIPE = Path(__file__).parents[2] / "experiments" / "budget" / "recipe.yaml"


@pytest.fixture
def values(tiny_model, tiny_data, monkeypatch, tmp_path):
    """A recipe of a few steps."""
    monkeypatch.setenv("MOFO_CACHE", str(tmp_path / "cache"))
    return {
        "model": tiny_model,
        "data": tiny_data,
        "held_out_rows": 4,
        "settings": {"learning_rate": 1e-2},
        "steps": 4,
        "points": 2,
        "batch_size": 2,
        "probes": ["divergence"],
        "precision": "float32",
        "save": "none",
        "samples": 0,
    }


def run(values, tmp_path, method):
    """Train one method in this process; its runs."""
    recipe = make_recipe(values | {"methods": [method]})
    output = OutputFolder(tmp_path / "out")
    prepare(recipe, output, overwrite=True)
    (planned,) = recipe.runs()
    measure_base(Job(output.path))
    output.run(planned.name).write_run(planned)
    FineTuning(Job(output.path), planned.name).train()
    assert not list(output.run(planned.name).path.rglob("*.safetensors")), "no copy of the base is left"
    return output.run(planned.name).result.runs


def test_pulled_run_is_within_the_bound_by_the_comparisons_own_probe(values, tmp_path):
    (free,) = run(values, tmp_path, "adamw")
    bound = round(0.6 * free.points[-1].forgotten["divergence"]["kl"], 6)
    held, half = run(values, tmp_path, {"adamw": {}, "budget": {"bound": bound}, "blend": {"keep": [0.5]}})
    assert held.name.startswith(f"adamw+budget+blend-lr0.01-budget.b{bound:g}-")
    divergence = held.points[-1].forgotten["divergence"]["kl"]
    assert 0.9 * bound < divergence <= bound
    assert held.ended_at is None
    assert [point.step for point in held.points] == [2, 4]
    assert held.points[0].forgotten == free.points[0].forgotten, "the training itself is the same"
    assert held.distance.l2 < free.distance.l2
    assert half.distance.l2 == pytest.approx(held.distance.l2 / 2, rel=1e-3), "other parts see the end as it was pulled"


def test_run_that_its_method_ends_is_measured_there_and_counts_as_ended(values, tmp_path):
    (ended,) = run(values, tmp_path, {"adamw": {}, "budget": {"bound": 1e-5, "way": "stop", "every": 3}})
    assert ended.ended_at == 3
    assert [point.step for point in ended.points] == [2, 3], "at a point of the recipe, and where it ended"
    assert [step.step for step in ended.training] == [1, 2, 3]
    assert ended.method == "adamw+budget-stop"
    assert ended.points[-1].forgotten["divergence"]["kl"] > 1e-5


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"bound": 0}, "budget.bound is 0, expected a number above 0"),
        ({"bound": -0.1}, "budget.bound is -0.1, expected a number above 0"),
        ({"probe": "kl"}, "Unknown probe `kl`"),
        ({"probe": "text:missing.txt"}, "missing.txt"),
        ({"way": "hope"}, "budget.way is 'hope', expected"),
        ({"every": 0}, "budget.every is 0, expected at least 1"),
    ],
)
def test_budgets_that_cannot_be_are_refused_in_a_recipe(values, budget, message):
    with pytest.raises(UserError, match=message):
        make_recipe(values | {"methods": [{"adamw": {}, "budget": budget}]})


def test_budget_is_refused_for_a_sequence_of_tasks(values, tiny_data):
    tasks = [{"name": name, "data": tiny_data, "held_out_rows": 4} for name in ("one", "two")]
    del values["data"]
    with pytest.raises(UserError, match="budget is for one task, and the recipe has several"):
        make_recipe(values | {"tasks": tasks, "methods": ["adamw+budget"]})


def test_recipe_of_the_experiment_has_three_budgets_for_two_optimizers_in_four_ways(tiny_model, tiny_data, tmp_path):
    changes = {"model": tiny_model, "data": tiny_data, "held_out_rows": 4, "held_out": None, "probes": ["divergence"]}
    recipe = make_recipe(override(read_recipe(RECIPE), changes))
    found = prepare(recipe, OutputFolder(tmp_path / "out"), overwrite=False, dry_run=True)
    ways = {
        f"{optimizer}+budget{way}" for optimizer in ("adamw", "mofo") for way in ("", "-stop", "-slow", "-slow-pull")
    }
    distilled = {"adamw+self-distill", "adamw+self-distill+budget"}
    assert {run.method_name for run in recipe.runs()} == ways | distilled | {"adamw", "mofo"}
    assert {run.method.settings.get("budget.bound") for run in recipe.runs()} == {None, 0.0125, 0.025, 0.05}
    assert found.runs == 2 * (3 * 4 + 1) + 2
    assert not (tmp_path / "out").exists()

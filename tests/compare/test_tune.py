import math

import pytest

from mofo.compare.recipe import make_recipe
from mofo.compare.tune import tuned_runs


def play(recipe, loss):
    """Run what the rule asks for until it asks for no more; returns the names of all runs, round by round."""
    ends, rounds = {}, []
    while new := [run for run in tuned_runs(recipe, ends) if run.name not in ends]:
        rounds.append([run.name for run in new])
        ends |= {run.name: loss(run) for run in new}
    return rounds


def valley(best):
    """A held-out loss that is lowest at the learning rate `best`."""
    return lambda run: abs(math.log2(run.method.optimizer.learning_rate / best))


def test_grid_is_left_where_its_best_is_inside_and_the_best_gets_all_seeds():
    recipe = make_recipe(
        {"methods": ["adamw"], "settings": {"learning_rate": [1e-4, 2e-4, 4e-4]}, "seeds": [0, 1, 2], "tune": True}
    )
    assert play(recipe, valley(2e-4)) == [
        ["adamw-lr0.0001-s0", "adamw-lr0.0002-s0", "adamw-lr0.0004-s0"],
        ["adamw-lr0.0002-s1", "adamw-lr0.0002-s2"],
    ]


def test_seeds_of_an_entry_of_its_own_are_its_methods_alone():
    entries = ["adamw", {"lion": {}, "seeds": 5}, {"mofo": {}, "seeds": [7, 6]}]
    recipe = make_recipe(
        {"methods": entries, "settings": {"learning_rate": [1e-4, 2e-4, 4e-4]}, "seeds": [0, 1], "tune": True}
    )
    first, second = play(recipe, valley(2e-4))
    assert {name.split("-")[0]: name.split("-")[-1] for name in first} == {"adamw": "s0", "lion": "s5", "mofo": "s7"}
    assert second == ["adamw-lr0.0002-s1", "mofo-lr0.0002-f0.15-s6"]


def test_an_entry_that_is_not_tuned_is_run_as_it_is():
    values = {
        "methods": ["adamw", {"dft": {}, "tune": False, "seeds": [7, 6]}],
        "settings": {"learning_rate": [1e-4, 2e-4]},
        "tune": True,
    }
    first, *added = play(make_recipe(values), valley(4e-4))
    assert first == [
        "adamw-lr0.0001-s0",
        "adamw-lr0.0002-s0",
        *(f"adamw+dft-lr{rate}-s{seed}" for seed in (7, 6) for rate in (0.0001, 0.0002)),
    ]
    assert added == [["adamw-lr0.0004-s0"], ["adamw-lr0.0008-s0"]]
    alone = make_recipe(values | {"methods": ["adamw", {"lion": {}, "tune": True}], "tune": False})
    assert alone.tunes
    assert {name.split("-")[0] for names in play(alone, valley(8e-4))[1:] for name in names} == {"lion"}


@pytest.mark.parametrize(("best", "tried"), [(1e-3, [2e-4, 4e-4, 8e-4, 1.6e-3]), (3e-5, [5e-5, 2.5e-5, 1.25e-5])])
def test_grid_is_widened_by_factors_of_two_until_its_best_is_not_at_the_edge(best, tried):
    recipe = make_recipe({"methods": ["adamw"], "settings": {"learning_rate": 1e-4}, "tune": True})
    first, *added = play(recipe, valley(best))
    assert first == ["adamw-lr0.0001-s0"]
    rates = [float(name.split("-lr")[1].removesuffix("-s0")) for names in added for name in names]
    assert set(tried) <= set(rates)
    assert abs(math.log2(min(rates, key=lambda rate: abs(math.log2(rate / best))) / best)) <= 0.5


def test_each_combination_of_other_settings_is_tuned_and_the_best_method_chosen_over_all():
    recipe = make_recipe(
        {
            "methods": ["adamw", "mofo"],
            "settings": {"learning_rate": [1e-4, 2e-4, 4e-4], "fraction": [0.05, 0.15]},
            "seeds": [3, 4],
            "tune": True,
        }
    )
    best = {None: 2e-4, 0.05: 4e-4, 0.15: 2e-4}

    def loss(run):
        fraction = run.method.settings.get("fraction")
        return valley(best[fraction])(run) + (0.1 if fraction == 0.15 else 0)

    rounds = play(recipe, loss)
    assert rounds[1] == ["adamw-lr0.0002-s4", "mofo-lr0.0008-f0.05-s3"]  # a method need not wait for the others
    assert rounds[2] == ["mofo-lr0.0004-f0.05-s4"]


def test_widening_ends_where_a_method_never_gets_worse_or_always_diverges():
    recipe = make_recipe({"methods": ["adamw"], "settings": {"learning_rate": 1e-4}, "tune": True})
    rounds = play(recipe, lambda run: -run.method.optimizer.learning_rate)
    assert rounds[-1] == ["adamw-lr0.0064-s0"]
    assert len(play(recipe, lambda run: math.inf)) <= 8

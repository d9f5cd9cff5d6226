"""The three paragraphs that page and terminal begin with."""

import shlex

import pytest
from fake import KL, LOSS, change_runs, make_results, path_results, set_path
from hypothesis import given
from hypothesis import strategies as st

from mofo.cli.parser import Parser
from mofo.cli.recipe_flags import add_recipe_flags, recipe_values
from mofo.compare.recipe import make_recipe, override
from mofo.report import Comparison, make_answer
from mofo.results import Seconds

TOLD = {"seeds": (0, 1, 2), "noise": 0.001, "learning_rates": (1e-4, 2e-4, 3e-4)}


def results(**arguments):
    """Results with what `mofo compare` writes for the way back, of a recipe of 60 steps."""
    made = make_results(**arguments)
    rate = made.settings["learning_rate"].model_copy(update={"is_rate": True})
    made = made.model_copy(
        update={"settings": made.settings | {"learning_rate": rate}, "recipe": made.recipe | {"steps": 60}}
    )

    def change(run):
        lr = run.settings["learning_rate"]
        command = f"--methods {run.method} --set {run.method}.learning_rate={lr} --seeds {run.seed}"
        return run.model_copy(update={"command": command, "model": f"runs/{run.name}/model"})

    return change_runs(made, change)


def answer(made):
    return make_answer(Comparison(made), "out folder")


def test_answer_takes_the_method_that_is_ahead_beyond_chance():
    take = answer(results(**TOLD)).take
    assert take.text.startswith("MoFO at lr\u00a0")
    assert "which forgot least on text loss beyond chance" in take.text
    assert "At the end of training: held-out loss 1." in take.text
    assert "Its model: out folder/runs/mofo-f0.15-lr0.000" in take.text
    ((what, command),) = take.commands
    assert what == "Train on all rows"
    assert command.startswith("mofo compare --recipe 'out folder/recipe.yaml' --methods mofo --set mofo.learning_rate=")
    assert command.endswith("--epochs 1 --output 'out folder-full'")


def test_answer_says_what_the_method_costs_beside_the_reference():
    made = make_results(**TOLD)
    seconds = {"adamw": Seconds(training=60.0), "mofo": Seconds(training=75.0)}
    timed = change_runs(made, lambda run: run.model_copy(update={"seconds": seconds[run.method]}))
    assert " A training step took 1.25 × the time of AdamW's. Its model was not kept." in answer(timed).take.text
    untimed = change_runs(made, lambda run: run.model_copy(update={"seconds": None}))
    assert "A training step" not in answer(untimed).take.text


def test_answer_takes_the_reference_where_no_difference_can_be_told():
    take = answer(results(learning_rates=(1e-4,))).take
    assert take.text.startswith(
        "AdamW at lr\u00a01e-4, the reference, for now: no method is shown to be better with 1 seed"
    )


def test_answer_without_models_or_commands_says_so():
    made = change_runs(results(), lambda run: run.model_copy(update={"model": None, "command": None}))
    take = answer(made).take
    assert "Its model was not kept." in take.text
    assert not take.commands


def test_answer_of_a_full_run_needs_no_other():
    made = results()
    assert not answer(made.model_copy(update={"recipe": made.recipe | {"steps": None}})).take.commands


def test_answer_of_runs_that_all_diverged_takes_nothing_and_asks_for_lower_rates():
    made = results(learning_rates=(1e30,))
    for run in made.runs:
        set_path(run, [(1.9, 0.1), (None, 0.1), (None, 0.1)])
    found = answer(made)
    assert "AdamW at lr\u00a01e30 diverged at step 40" in found.result
    assert found.take.text == "Nothing yet: no method learned the task without diverging."
    assert "--set adamw.learning_rate=2.5e+29,5e+29,1e+30 --set mofo.l" in found.surer.commands[0][1]


LOWER = "--set mofo.learning_rate=2.5e-05,5e-05,0.0001 --set adamw.learning_rate=2.5e-05,5e-05,0.0001"


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ({"learning_rates": (1e-4,)}, f"{LOWER} --seeds 0,1,2"),
        ({"learning_rates": (1e-4,), "seeds": (0, 1, 2)}, LOWER),
        ({"learning_rates": (1e-4,), "seeds": (3, 4)}, f"{LOWER} --seeds 3,4,0"),
        (TOLD | {"seeds": (0,)}, "--tune --seeds 0,1,2"),
    ],
)
def test_answer_asks_for_what_is_missing(arguments, flags):
    commands = dict(answer(results(**arguments)).surer.commands)
    command = commands["Add these runs"]
    assert command == f"mofo compare --recipe 'out folder/recipe.yaml' {flags} --output 'out folder'"


def test_answer_leaves_tuning_as_the_recipe_has_it():
    made = results(**(TOLD | {"seeds": (0,)}))
    made.recipe["tune"] = True
    command = dict(answer(made).surer.commands)["Add these runs"]
    assert command.endswith("recipe.yaml' --seeds 0,1,2 --output 'out folder'")


def test_answers_command_is_understood_by_compare():
    command = answer(results(learning_rates=(1e-4,))).surer.commands[0][1]
    words = shlex.split(command)[4:-2]
    parser = Parser(prog="mofo compare")
    add_recipe_flags(parser, make_recipe({}))
    recipe = make_recipe(override({"methods": ["adamw", "mofo"]}, recipe_values(parser.parse_args(words))))
    assert next(run.name for run in recipe.runs()) == "adamw-lr2.5e-05-s0"
    assert len(recipe.runs()) == 2 * 3 * 3


def test_answer_asks_for_lower_rates_of_the_optimizer_alone_whose_lowest_is_best():
    made = results(learning_rates=(1e-4, 2e-4), seeds=(0, 1, 2), noise=0.001)
    for run in made.runs:
        if run.method == "mofo":
            good = run.settings["learning_rate"] == 2e-4
            set_path(run, [(1.5, 0.1 if good else 0.5), (1.4, 0.2), (1.3, 0.3)])
            for point in run.points:
                point.forgotten["text"]["loss"] = 3.8 if good else 4.5
    command = dict(answer(made).surer.commands)["Add these runs"]
    assert "--set adamw.learning_rate=2.5e-05,5e-05,0.0001,0.0002 --output" in command


def test_answer_of_enough_seeds_and_rates_inside_the_grid_asks_for_nothing():
    assert "this comparison has what it needs" in answer(results(**TOLD)).surer.text


def test_answer_of_unfinished_results_resumes():
    made = results().model_copy(update={"complete": False, "missing": [f"mofo-s{seed}" for seed in range(6)]})
    found = answer(made)
    assert found.result.startswith("Unfinished, 6 runs of the plan are missing; so far: ")
    assert found.surer.text == "First the rest of the plan: mofo-s0, mofo-s1, mofo-s2, mofo-s3 and 2 more."
    assert found.surer.commands == [("Resume", "mofo compare --recipe 'out folder/recipe.yaml' --output 'out folder'")]


def test_answer_without_probes_asks_for_them():
    made = results()
    made = made.model_copy(update={"metrics": [metric for metric in made.metrics if metric.kind != "forgotten"]})
    found = answer(made)
    assert found.take.text == "Nothing yet: no probe measured the methods."
    assert "give --probes" in found.surer.text


def test_answer_without_runs():
    made = results()
    made.runs.clear()
    found = answer(made)
    assert found.result == "no run has been measured yet."
    assert found.take.text == "Nothing yet."


DEMO = {
    ("adamw", 1e-4, 0): [(1.29, 0.0145), (1.26, 0.0197)],
    ("adamw", 3e-4, 0): [(1.43, 0.0815), (1.342, 0.109)],
    ("mofo", 3e-4, 0): [(1.354, 0.048), (1.344, 0.066)],
}


def test_answer_takes_a_setting_that_was_past_the_compared_loss_at_its_first_checkpoint():
    found = answer(path_results(DEMO))
    assert found.take.text.startswith("AdamW at lr\u00a01e-4, the reference, for now")
    assert "MoFO forgot more than AdamW on divergence (0.0660 against 0.0145" in found.result


def test_answer_takes_what_ended_better_than_the_configuration_that_was_compared():
    runs = {
        ("adamw", 1e-4, 0): [(1.5, 0.3), (1.3, 0.4)],
        ("adamw", 3e-4, 0): [(1.5, 0.1), (1.4, 0.2), (1.35, 0.9)],  # the best on its way, and then forgets
        ("mofo", 1e-4, 0): [(1.5, 0.4), (1.4, 0.8)],
    }
    runs = {key: [*path, path[-1]][:3] for key, path in runs.items()}
    take = answer(path_results(runs)).take.text
    assert take.startswith(
        "AdamW at lr\u00a01e-4, which by the end learned at least as much as AdamW at lr\u00a03e-4, the reference, and "
        "forgot no more on divergence. At the end of training: held-out loss 1.300 and divergence 0.400 ("
    )


def test_answer_takes_another_method_that_ended_better_than_the_reference():
    runs = {("adamw", 1e-4, 0): [(1.5, 0.3), (1.4, 0.5)], ("mofo", 1e-4, 0): [(1.4, 0.2), (1.3, 0.3)]}
    take = answer(path_results(runs)).take.text
    assert take.startswith("MoFO at lr\u00a01e-4, which by the end learned at least as much as AdamW at lr\u00a01e-4,")


def test_answer_replaces_no_three_seeds_by_one_that_ended_better():
    three = {("adamw", 1e-4, seed): [(1.5, 0.3), (1.4, 0.5)] for seed in (0, 1, 2)}
    take = answer(path_results({**three, ("mofo", 1e-4, 0): [(1.4, 0.2), (1.3, 0.3)]})).take.text
    assert take.startswith("AdamW at lr\u00a01e-4, the only method that can be judged.")


ends = st.tuples(st.floats(1.0, 2.2), st.floats(-0.5, 1.0))
seeds = st.lists(st.lists(ends, min_size=2, max_size=2), min_size=2, max_size=2)


@given(st.lists(seeds, min_size=2, max_size=5), st.integers(1, 4))
def test_answer_takes_nothing_that_another_setting_dominates(configurations, adamw):
    runs = {
        ("adamw" if i < adamw else "mofo", (i + 1) * 1e-4, seed): path
        for i, paths in enumerate(configurations)
        for seed, path in enumerate(paths)
    }
    comparison = Comparison(path_results(runs))
    text = make_answer(comparison, "out").take.text
    if not text.startswith("Nothing yet"):
        taken = next(c for c in comparison.configurations if text.startswith(f"{comparison.full_name(c)},"))
        (loss, kl), *others = [
            (comparison.at_end(c, LOSS).mean, comparison.at_end(c, KL).mean)
            for c in [taken, *comparison.configurations]
        ]
        assert not [end for end in others if end[0] <= loss and end[1] <= kl and end != (loss, kl)]

import pytest
import yaml

from mofo.compare.recipe import Recipe, make_recipe, override, read_recipe
from mofo.compare.recipe_settings import GROUPS
from mofo.errors import UserError


def names(**values):
    return [run.name for run in make_recipe(values).runs()]


def test_runs_are_every_combination_and_adamw_has_no_fraction():
    grid = {"learning_rate": [1e-4, 2e-4], "fraction": [0.05, 0.15]}
    runs = names(methods=["adamw", "mofo"], settings=grid, seeds=[0, 1])
    assert len(runs) == 2 * (2 + 4) == len(set(runs))
    assert {"adamw-lr0.0001-s1", "mofo-lr0.0001-f0.05-s1"} < set(runs)


def test_runs_of_an_entry_may_have_their_own_settings_and_seeds_and_none_is_made_twice():
    entries = ["adamw", {"adamw": {}, "seeds": [0, 1]}, {"mofo": {"fraction": 0.1}}]
    assert names(methods=entries) == ["adamw-lr0.0001-s0", "adamw-lr0.0001-s1", "mofo-lr0.0001-f0.1-s0"]


def test_reference_method_is_adamw_or_the_first_or_the_given_one():
    assert make_recipe({"methods": ["mofo", "adamw"]}).reference_method() == "adamw"
    assert make_recipe({"methods": [{"mofo": {"score": "random"}}, "mofo"]}).reference_method() == "mofo-random"
    assert make_recipe({"methods": ["mofo", "adamw"], "reference": "mofo"}).reference_method() == "mofo"


TWO = [{"name": "a", "data": "a.jsonl"}, {"name": "b", "data": "b.jsonl"}]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("reasoning-gym:gsm_symbolic", "gsm_symbolic"),
        ("a/gsm8k-train.jsonl", "gsm8k-train"),
        ("openai/gsm8k:main", "gsm8k"),
    ],
)
def test_task_is_named_after_its_data(data, name):
    assert [task.name for task in make_recipe({"data": data}).sequence] == [name]


@pytest.mark.parametrize(("steps", "points", "expected"), [(10, 4, [3, 5, 8, 10]), (2, 4, [1, 2]), (7, 1, [7])])
def test_point_steps_are_spread_over_the_run_and_end_with_it(steps, points, expected):
    assert make_recipe({"points": points}).point_steps(steps) == expected


def steps_of_the_only_task(recipe, rows):
    (task,) = recipe.sequence
    return task.total_steps(rows, recipe.rows_per_step)


def test_total_steps_come_from_epochs_where_steps_are_not_given():
    recipe = make_recipe({"epochs": 2, "batch_size": 4, "gradient_accumulation": 2})
    assert steps_of_the_only_task(recipe, rows=21) == 6
    assert steps_of_the_only_task(make_recipe({"steps": 5}), rows=21) == 5
    assert steps_of_the_only_task(make_recipe({"batch_size": 10}), rows=21) == 3


def test_recipe_survives_its_file(tmp_path):
    methods = ["adamw", {"mofo": {"fraction": [0.1, 0.2]}, "seeds": [3]}]
    recipe = make_recipe({"settings": {"learning_rate": "1e-4"}, "methods": methods, "steps": 5})
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe.to_dict()))
    assert make_recipe(read_recipe(file)) == recipe


def test_numbers_without_a_point_are_numbers_in_yaml_too(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("settings: {learning_rate: [1e-4, 2e-4]}\nsteps: 3\n")  # YAML 1.1 reads 1e-4 as a text
    recipe = make_recipe(read_recipe(file))
    assert [run.method.settings["learning_rate"] for run in recipe.runs()] == [1e-4, 2e-4, 1e-4, 2e-4]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": ["adam"]}, r"Unknown method 'adam' \(did you mean adamw\?\): choose from adamw, mofo"),
        ({"settings": {"fraction": [0.0]}}, "mofo.fraction is 0.0, expected a number above 0"),
        ({"settings": {"fraction": [1.5]}}, "at most 1"),
        ({"settings": {"fraction": ["nan"]}}, "mofo.fraction is 'nan'"),
        ({"settings": {"learning_rate": [-1e-4]}}, "adamw.learning_rate is -0.0001"),
        ({"settings": {"learning_rate": []}}, "adamw.learning_rate is empty"),
        ({"settings": {"learning_rate": ["fast"]}}, "learning_rate is 'fast', expected a number"),
        ({"settings": {"weight_decay": -1}}, "weight_decay is -1, expected at least 0"),
        ({"settings": {"fractoin": 0.1}}, r"No method has a setting 'fractoin' \(did you mean fraction\?\)"),
        (
            {"settings": {"l2.strength": 1}},
            r"l2.strength is set, but no method has the part l2 \(their parts: adamw, mofo\): add one to the methods, "
            r"such as adamw\+l2, or leave the setting out\.",
        ),
        ({"settings": {"lion.learning_rate": 1}}, "no method has the part lion .* such as lion, or leave"),
        ({"methods": ["adamw"], "settings": {"fraction": 1}}, "no method has a setting fraction .* such as mofo, or"),
        (
            {"methods": [{"adamw": {"learning_rate": 1}}], "settings": {"learning_rate": 1}},
            "learning_rate is set, but each method that has it has a value of its own",
        ),
        ({"settings": 3}, "settings is 3, expected a mapping"),
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"steps": 1.5}, "steps is 1.5, expected a whole number"),
        ({"steps": 3, "epochs": 1}, "Both steps and epochs"),
        ({"epochs": "nan"}, "epochs is 'nan'"),
        ({"batch_size": True}, "batch_size is True, expected another value"),
        ({"save": "yes please"}, "save is 'yes please', expected 'best', 'all', 'points' or 'none'"),
        ({"save": True}, "save is no longer true or false: give best, all or none"),
        ({"weights": "bfloat16", "precision": "float32"}, "leave precision out"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"schedule": "zigzag"}, "schedule is 'zigzag'"),
        ({"warmup": 1.0}, "warmup is 1.0"),
        ({"max_length": 1}, "max_length is 1"),
        ({"stepz": 3}, r"A recipe has no 'stepz' \(did you mean steps\?\): it knows model"),
        ({"learning_rates": [1e-4]}, "learning_rates is now settings.learning_rate"),
        ({"fractions": [0.1]}, "fractions is now settings.fraction"),
        ({"weight_decay": 0.1}, "weight_decay is now settings.weight_decay"),
        ({"methods": [{"method": "mofo", "fractions": 0.3}]}, "in a form of earlier versions"),
        ({"methods": [["mofo"]]}, r"methods has \['mofo'\], expected a method's name or a mapping"),
        ({"methods": [{"seeds": [1]}]}, "methods has .*expected a method's name or a mapping"),
        ({"methods": [{"mofo": {}, "seeds": ["one"]}]}, "seeds is 'one', expected a whole number"),
        ({"methods": []}, r"methods is \[\], expected at least 1 value"),
        ({"probes": []}, "probes is .*expected at least 1 value"),
        ({"seeds": []}, "seeds is .*expected at least 1 value"),
        ({"seeds": [-1]}, "seeds is -1, expected at least 0"),
        ({"reference": "lion"}, "reference is 'lion', expected one of the methods: adamw, mofo"),
        ({"tasks": [{"name": "a"}]}, "tasks.data is missing"),
        ({"tasks": [{"name": "a", "data": "a.jsonl", "stepz": 3}]}, "tasks.stepz is unknown"),
        (
            {"tasks": [{"name": "a", "data": "a.jsonl", "metric": "bleu"}]},
            "tasks.metric is 'bleu', expected 'accuracy'",
        ),
        ({"tasks": [{"name": "a", "data": "a.jsonl"}] * 2}, "Two tasks are named a"),
        ({"tasks": [{"name": "all tasks", "data": "a.jsonl"}]}, "A task is named 'all tasks'"),
        ({"tasks": [{"name": "a", "data": "a.jsonl", "steps": 1, "epochs": 1}]}, "The task a has both steps and"),
        ({"tasks": [{"name": "a", "data": "a.jsonl"}], "data": "b.jsonl"}, "Both data and tasks are given"),
        ({"order": "joint"}, "order is given, but there is only one task"),
        ({"methods": [{"adamw": {}, "order": "alone"}]}, "order is given, but there is only one task"),
        ({"tasks": TWO, "methods": [{"adamw": {}, "order": "last"}]}, "order is 'last', expected 'sequence'"),
        ({"methods": ["gem"]}, "gem keeps what earlier tasks taught, and adamw.gem.* has none"),
        ({"tasks": TWO, "methods": ["gem"], "order": "joint"}, "gem keeps what earlier tasks taught"),
    ],
)
def test_make_recipe_names_what_cannot_be_used(values, message):
    with pytest.raises(UserError, match=r"(?s)" + message):
        make_recipe(values)


FILE = {
    "methods": [{"adamw": {"learning_rate": [1e-4, 3e-4]}, "seeds": 7}, "mofo", {"l2": {"strength": 1e-3}}],
    "settings": {"learning_rate": 3e-4, "mofo.learning_rate": 1e-5, "fraction": 0.15},
}


def names_with(**changes):
    return [run.name for run in make_recipe(override(FILE, changes)).runs()]


def test_override_merges_settings_name_by_name():
    assert names_with() == [
        "adamw-lr0.0001-s7",
        "adamw-lr0.0003-s7",
        "mofo-lr1e-05-f0.15-s0",
        "adamw+l2-lr0.0003-l2.strength0.001-s0",
    ]
    assert names_with(settings={"fraction": 0.2})[2] == "mofo-lr1e-05-f0.2-s0"


def test_override_wins_over_what_methods_of_the_file_have_of_their_own():
    given = names_with(settings={"learning_rate": 1e-6, "l2.strength": 1e-2}, seeds=[1])
    assert given == ["adamw-lr1e-06-s1", "mofo-lr1e-06-f0.15-s1", "adamw+l2-lr1e-06-l2.strength0.01-s1"]
    assert names_with(settings={"adamw.learning_rate": 1e-6})[:2] == ["adamw-lr1e-06-s7", "mofo-lr1e-05-f0.15-s0"]


def test_override_drops_settings_of_the_file_that_other_methods_do_not_have():
    values = override(FILE, {"methods": ["sgd"]})
    assert values["settings"] == {"learning_rate": 3e-4}
    assert make_recipe(values).runs()[0].name == "sgd-lr0.0003-s0"


@pytest.mark.parametrize("settings", [{"fraction": 0.1}, {"l2.strength": 0.1}])
def test_override_keeps_settings_of_the_command_line_that_decide_nothing_to_be_refused(settings):
    with pytest.raises(UserError, match="is set, but no method has"):
        make_recipe(override(FILE, {"methods": ["sgd"], "settings": settings}))


def test_tasks_take_what_they_leave_out_from_the_recipe():
    tasks = [{"name": "a", "data": "a.jsonl", "epochs": 2}, {"name": "b", "data": "b.jsonl", "held_out_rows": 3}]
    recipe = make_recipe({"tasks": tasks, "steps": 7, "held_out_rows": 5, "columns": "text=T", "batch_size": 4})
    first, second = recipe.sequence
    assert (first.steps, first.epochs, first.held_out_rows, first.columns) == (None, 2, 5, {"text": "T"})
    assert (second.steps, second.held_out_rows) == (7, 3)
    assert [task.total_steps(10, recipe.rows_per_step) for task in recipe.sequence] == [5, 7]
    assert make_recipe(recipe.to_dict()) == recipe


def test_orders_make_runs_and_methods_of_their_own():
    recipe = make_recipe({"tasks": TWO, "methods": ["mofo", {"adamw": {}, "order": ["joint", "sequence", "alone"]}]})
    assert [(run.method_name, run.name) for run in recipe.runs()] == [
        ("mofo", "mofo-lr0.0001-f0.15-s0"),
        ("adamw-joint", "adamw-lr0.0001-joint-s0"),
        ("adamw", "adamw-lr0.0001-s0"),
        ("adamw-alone", "adamw-lr0.0001-alone-s0"),
    ]
    assert [run.method_info.label for run in recipe.runs()][1:] == [
        "AdamW, all tasks at once",
        "AdamW",
        "AdamW, each task alone",
    ]
    assert recipe.reference_method() == "adamw"
    assert make_recipe({"tasks": TWO, "order": ["joint", "sequence"], "methods": "mofo"}).reference_method() == "mofo"
    given = make_recipe(override(recipe.to_dict(), {"order": ["sequence"]}))
    assert [run.name for run in given.runs()] == ["mofo-lr0.0001-f0.15-s0", "adamw-lr0.0001-s0"]


def test_changes_are_what_differs_beyond_the_grid():
    one = make_recipe({"steps": 3, "seeds": [0]})
    assert make_recipe({"steps": 3, "seeds": [0, 1], "methods": ["mofo"]}).changes(one) == []
    assert make_recipe({"steps": 4}).changes(one) == ["steps was 3, is 4"]


@pytest.mark.parametrize("content", ["- a\n- b\n", "{", "just text"])
def test_read_recipe_refuses_a_file_that_is_no_recipe(tmp_path, content):
    file = tmp_path / "recipe.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match="The recipe"):
        read_recipe(file)


def test_read_recipe_refuses_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml")


def test_every_setting_and_group_explains_itself():
    assert all(field.description for field in Recipe.model_fields.values())
    assert [name for group in GROUPS for name in group.model_fields] == list(Recipe.model_fields)

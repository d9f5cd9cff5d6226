import pytest
import yaml

from mofo.compare.recipe import Recipe, Run, make_recipe, read_recipe
from mofo.errors import UserError


def test_the_grid_has_every_combination_and_adamw_no_fraction():
    recipe = make_recipe(
        {"methods": ["adamw", "mofo"], "learning_rates": [1e-4, 2e-4], "fractions": [0.05, 0.15], "seeds": [0, 1]}
    )
    runs = recipe.runs()
    assert len(runs) == 2 * (2 + 4) == len({run.name for run in runs})
    assert {run.fraction for run in runs if run.method == "adamw"} == {None}
    assert Run("mofo", 1e-4, 0.05, 1) in runs


def test_a_method_may_have_a_grid_of_its_own_and_no_run_is_made_twice():
    entries = ["adamw", {"method": "adamw", "seeds": [0, 1]}, {"method": "mofo", "fractions": 0.1}]
    runs = make_recipe({"methods": entries}).runs()
    assert [(run.method, run.fraction, run.seed) for run in runs] == [
        ("adamw", None, 0),
        ("adamw", None, 1),
        ("mofo", 0.1, 0),
    ]


@pytest.mark.parametrize(("steps", "points", "expected"), [(10, 4, [3, 5, 8, 10]), (2, 4, [1, 2]), (7, 1, [7])])
def test_points_are_spread_over_the_run_and_end_with_it(steps, points, expected):
    assert make_recipe({"points": points}).point_steps(steps) == expected


def test_steps_come_from_epochs_where_they_are_not_given():
    recipe = make_recipe({"epochs": 2, "batch_size": 4, "gradient_accumulation": 2})
    assert recipe.total_steps(rows=21) == 6
    assert make_recipe({"steps": 5}).total_steps(rows=21) == 5
    assert make_recipe({"batch_size": 10}).total_steps(rows=21) == 3


def test_a_recipe_survives_its_file(tmp_path):
    recipe = make_recipe({"learning_rates": "1e-4", "methods": ["adamw", {"method": "mofo", "seeds": [3]}], "steps": 5})
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe.to_dict()))
    assert make_recipe(read_recipe(file)) == recipe


def test_yaml_numbers_without_a_point_are_numbers(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("learning_rates: [1e-4, 2e-4]\nsteps: 3\n")  # YAML 1.1 reads 1e-4 as a text
    assert make_recipe(read_recipe(file)).learning_rates == (1e-4, 2e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": ["adam"]}, "Unknown method 'adam': choose from adamw, mofo"),
        ({"fractions": [0.0]}, "A fraction is 0.0, expected a number above 0"),
        ({"fractions": [1.5]}, "at most 1"),
        ({"fractions": ["nan"]}, "A fraction is nan"),
        ({"learning_rates": [-1e-4]}, "A learning rate is -0.0001"),
        ({"learning_rates": []}, "learning_rates is empty"),
        ({"learning_rates": ["fast"]}, "learning_rates is 'fast', expected a number"),
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"steps": 1.5}, "steps is 1.5, expected a whole number"),
        ({"steps": 3, "epochs": 1}, "Both steps and epochs"),
        ({"epochs": "nan"}, "epochs is nan"),
        ({"batch_size": True}, "batch_size is True, expected a whole number"),
        ({"save": "yes please"}, "save is 'yes please', expected true or false"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"schedule": "zigzag"}, "schedule is 'zigzag'"),
        ({"warmup": 1.0}, "warmup is 1.0"),
        ({"weight_decay": -1}, "weight_decay must be"),
        ({"max_length": 1}, "max_length is 1"),
        ({"learning_rate": 1e-4}, "A recipe has no 'learning_rate': it knows model"),
        ({"methods": [{"method": "mofo", "steps": 3}]}, "expected a method's name or a mapping"),
        ({"methods": []}, "methods is empty"),
    ],
)
def test_what_cannot_be_used_is_named(values, message):
    with pytest.raises(UserError, match=r"(?s)" + message.replace("(", r"\(")):
        make_recipe(values)


@pytest.mark.parametrize("content", ["- a\n- b\n", "{", "just text"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content):
    file = tmp_path / "recipe.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match="The recipe"):
        read_recipe(file)


def test_a_missing_recipe_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml")


def test_every_setting_explains_itself():
    import dataclasses

    assert all(field.metadata["help"] for field in dataclasses.fields(Recipe))

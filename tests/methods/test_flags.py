"""The flags that make a method again."""

import shlex

import pytest

from mofo.cli.parser import Parser
from mofo.cli.recipe_flags import add_recipe_flags, recipe_values
from mofo.compare.recipe import make_recipe, override


@pytest.mark.parametrize(
    "entry",
    [
        "adamw",
        {"mofo": {"fraction": 0.05, "score": "random"}},
        {"mofo": {"learning_rate": 3e-4}, "self-distill": {"texts": 16, "weight": 1.5}},
        {"adamw": {}, "blend": {}},
    ],
)
def test_flags_make_the_same_method_of_its_recipe(entry):
    values = {"methods": [entry, "sgd"], "settings": {"learning_rate": [1e-4], "weight_decay": 0.1}}
    run = make_recipe(values).runs()[0]
    words = run.method.flags(values["settings"])
    parser = Parser(prog="mofo compare")
    add_recipe_flags(parser, make_recipe({}))
    (again,) = make_recipe(override(values, recipe_values(parser.parse_args(shlex.split(words))))).runs()
    assert again.method == run.method

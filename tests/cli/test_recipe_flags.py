"""Flags for the settings of parts that a contributor added."""

import pytest

from mofo import cli
from mofo.cli.parser import Parser
from mofo.cli.recipe_flags import add_recipe_flags, recipe_values
from mofo.compare.recipe import make_recipe
from mofo.methods import parts
from mofo.methods.part import OptimizerPart, setting


class Heavy(OptimizerPart):
    """An optimizer with a setting that its runs are named after, and one without."""

    name = "heavy"
    label = "Heavy"
    friction: float = setting(0.9, "friction of the ball", short="fr")
    warm: bool = setting(False, "warm start")


@pytest.fixture(autouse=True)
def _more_parts(monkeypatch):
    monkeypatch.setattr(parts, "PARTS", (*parts.PARTS, Heavy))


def test_settings_that_name_an_optimizers_runs_have_a_plural_flag(capsys):
    parser = Parser(prog="mofo")
    add_recipe_flags(parser, make_recipe({}))
    assert "--frictions X,..." in parser.format_help()
    assert "--warm " not in parser.format_help()
    for words in (["--frictions", "0.5,0.8"], ["--friction", "0.5,0.8"], ["--set", "friction=0.5,0.8"]):
        assert recipe_values(parser.parse(words)) == {"settings": {"friction": [0.5, 0.8]}}


def test_settings_of_added_parts_are_listed_in_the_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["compare", "--help"])
    assert "\n  heavy         warm=false\n" in capsys.readouterr().out


def test_default_of_a_setting_is_that_of_the_recipe(capsys):
    parser = Parser(prog="mofo")
    add_recipe_flags(parser, make_recipe({"methods": ["heavy"], "settings": {"friction": [0.1, 0.2]}}))
    assert "friction of the ball (default 0.1,0.2)" in " ".join(parser.format_help().split())

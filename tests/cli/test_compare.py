"""`mofo compare` and `mofo demo`: flags, their values, and what is shown at the end."""

import json
from pathlib import Path

import pytest
import yaml

from mofo import cli
from mofo.compare import jobs
from mofo.compare.recipe import Recipe, make_recipe
from mofo.results import Results
from mofo.results_page import example


@pytest.fixture
def compared(monkeypatch, tmp_path):
    """What would have been compared: recipes and other arguments."""
    seen = []

    def compare(recipe, output, **options):
        seen.append((recipe, output, options))
        return example()

    monkeypatch.setattr(jobs, "compare", compare)
    monkeypatch.chdir(tmp_path)
    return seen


def recipe_of(compared, *words, command="compare"):
    assert cli.main([command, *words]) == 0
    return compared[-1][0]


def help_of(capsys, command):
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    return " ".join(capsys.readouterr().out.split())


def test_help_has_a_flag_for_every_setting_of_a_recipe(capsys):
    shown = help_of(capsys, "compare").replace("--[no-]", "--")
    for name in Recipe.model_fields.keys() - {"tasks"}:  # a list of mappings, which only a file can hold
        flag = {"settings": "set"}.get(name, name.replace("_", "-"))
        assert f" --{flag} " in shown
    for flag in ("--learning-rates X,...", "--fractions X,...", "--weight-decay X,..."):
        assert flag in shown


def test_help_groups_flags_and_shows_choices_and_defaults(capsys):
    shown = help_of(capsys, "compare")
    places = [shown.index(f" {heading}: ") for heading in ("model and data", "methods", "training", "measuring")]
    assert places == sorted(places)
    assert "--precision {auto,float32,bfloat16}" in shown
    assert "--batch-size N rows of a batch (default 8)" in shown
    assert "--methods METHOD,..." in shown
    assert "(default adamw,mofo)" in shown
    assert "peak learning rate (default 0.0001)" in shown


def test_help_lists_every_part_with_its_settings(capsys):
    shown = help_of(capsys, "compare")
    assert "momentum_share=0.5, score=momentum, state_dtype=float32, blocks=tensor" in shown
    assert "l2 decoupled=false, strength=0.001" in shown


def test_help_of_the_demo_shows_the_demos_defaults(capsys):
    shown = help_of(capsys, "demo")
    assert "peak learning rate (default 0.0003)" in shown
    assert "--batch-size N rows of a batch (default 3)" in shown
    assert "in place of epochs (default 10)" in shown
    assert "folder of the results (default mofo-demo)" in shown
    assert "--recipe" not in shown


def test_flags_give_the_values_of_a_recipe(compared):
    words = (
        "--model m --data d.jsonl --methods adamw,mofo+l2 --learning-rates 1e-4,2e-4 --fractions 0.05 "
        "--weight-decay 0.1 --set strength=1e-3,1e-2 --set mofo.score=random --set l2.decoupled=true --seeds 0,1 "
        "--epochs 2.5 --batch-size 4 --schedule linear --save none --weights bfloat16 --rounding stochastic "
        "--gradient-checkpointing --probes text,divergence"
    )
    assert recipe_of(compared, *words.split()) == make_recipe(
        {
            "model": "m",
            "data": "d.jsonl",
            "methods": ["adamw", "mofo+l2"],
            "settings": {
                "learning_rate": [1e-4, 2e-4],
                "fraction": [0.05],
                "weight_decay": [0.1],
                "rounding": ["stochastic"],
                "strength": [1e-3, 1e-2],
                "mofo.score": ["random"],
                "l2.decoupled": [True],
            },
            "seeds": [0, 1],
            "epochs": 2.5,
            "batch_size": 4,
            "schedule": "linear",
            "save": "none",
            "weights": "bfloat16",
            "gradient_checkpointing": True,
            "probes": ["text", "divergence"],
        }
    )


def test_other_arguments_are_passed_on(compared, tmp_path):
    assert cli.main(["compare"]) == 0
    assert str(compared[-1][1]) == "mofo-compare"
    default = {"overwrite": False, "jobs": 1, "launch": None, "on_ray": False, "gpus": None, "until": None}
    assert compared[-1][2] == default
    argv = ["compare", "--output", str(tmp_path / "out"), "--overwrite", "--jobs=2", "--launch", "f", "--until", "9"]
    assert cli.main(argv) == 0
    given = {"overwrite": True, "jobs": 2, "launch": Path("f"), "until": 9}
    assert compared[-1][1:] == (tmp_path / "out", default | given)
    assert cli.main(["compare", "--on", "ray", "--gpus", "0.5"]) == 0
    assert compared[-1][2] == default | {"on_ray": True, "gpus": 0.5}


@pytest.mark.parametrize(
    ("words", "same"),
    [
        ("--held_out_rows 5 --no_tune", "--held-out-rows 5 --no-tune"),
        ("--learning_rates=1e-3", "--learning-rates=1e-3"),
        ("--learning_rate 1e-3 --fraction 0.1", "--learning-rates 1e-3 --fractions 0.1"),
        ("--model_name_or_path m --dataset_name d --output_dir o", "--model m --data d --output o"),
        ("--model-name-or-path m --dataset-name d --output-dir o", "--model m --data d --output o"),
        (
            "--per_device_train_batch_size 2 --gradient_accumulation_steps 3 --max_steps 4 --lr_scheduler_type linear",
            "--batch-size 2 --gradient-accumulation 3 --steps 4 --schedule linear",
        ),
        ("--num_train_epochs 2 --seed 7", "--epochs 2 --seeds 7"),
    ],
)
def test_flags_are_taken_in_both_spellings_and_by_trls_names(compared, words, same):
    cli.main(["compare", *words.split()])
    cli.main(["compare", *same.split()])
    assert compared[0] == compared[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--fraction 0", "mofo.fraction is 0, expected a number above 0"),
        ("--weight-decay -1", "adamw.weight_decay is -1, expected at least 0"),
        ("--learning-rates fast", "adamw.learning_rate is 'fast', expected a number"),
        ("--set scoer=random", "No method has a setting 'scoer' (did you mean score?)"),
        ("--set mofo.score=loud", "mofo.score is 'loud', expected 'momentum'"),
        ("--methods mofo-gradient", "mofo with the setting mofo.score = gradient"),
        ("--precision fp8", "precision is 'fp8', expected 'auto', 'float32' or 'bfloat16'"),
        ("--steps 3 --epochs 1", "Both steps and epochs are given"),
        ("--steps many", "steps is 'many', expected a whole number"),
    ],
)
def test_bad_values_are_named(compared, capsys, words, message):
    assert cli.main(["compare", *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert not compared


@pytest.mark.parametrize("text", ["score", "=random", ""])
def test_set_needs_a_name_and_a_value(compared, capsys, text):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["compare", "--set", text])
    assert "is not of the form NAME=VALUE" in capsys.readouterr().err


def test_flags_win_over_the_recipe_and_settings_merge(compared, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"steps": 9, "points": 2, "settings": {"learning_rate": 1e-3, "fraction": 0.3}}))
    recipe = recipe_of(compared, "--recipe", str(file), "--points", "3", "--fractions", "0.1,0.2")
    assert (recipe.steps, recipe.points) == (9, 3)
    assert recipe.settings == {"learning_rate": 1e-3, "fraction": [0.1, 0.2]}


def test_epochs_take_the_place_of_the_recipes_steps(compared):
    recipe = recipe_of(compared, "--epochs", "1", command="demo")
    assert (recipe.steps, recipe.epochs) == (None, 1)
    assert recipe_of(compared, command="demo").steps == 10


def test_demo_tries_a_lower_rate_of_the_reference(compared):
    recipe = recipe_of(compared, command="demo")
    runs = [(run.method.name, run.method.optimizer.learning_rate) for run in recipe.runs()]
    assert runs == [("adamw", 1e-4), ("adamw", 3e-4), ("mofo", 3e-4), ("adamw+self-distill", 1e-4)]
    assert recipe.reference_method() == "adamw"


def test_json_is_the_results_alone(compared, capsys):
    assert cli.main(["compare", "--json"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed)["schema"] == 2
    assert Results.model_validate_json(printed) == example()


def test_table_verdict_and_place_of_the_report_are_shown(compared, capsys):
    assert cli.main(["compare", "--output", "there"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Result: ")
    assert "MoFO" in printed
    assert printed.rstrip().endswith("Report: there/report.html")


@pytest.mark.parametrize("command", ["compare", "demo"])
def test_interrupted_comparison_says_how_to_resume(monkeypatch, capsys, tmp_path, command):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "compare", interrupt)
    monkeypatch.chdir(tmp_path)
    assert cli.main([command]) == 130
    assert capsys.readouterr().err == f"mofo {command}: interrupted; run the same command again to resume\n"


def test_dry_run_shows_the_plan_and_writes_nothing(capsys, tiny_model, tiny_data, tmp_path):
    output = tmp_path / "out"
    words = f"compare --model {tiny_model} --data {tiny_data} --held-out-rows 4 --steps 3 --output {output} --dry-run"
    assert cli.main(words.split()) == 0
    assert "2, of 3 steps each" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []

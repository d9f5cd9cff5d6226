import json
import subprocess
import sys

import pytest

from mofo import cli


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    for command in ("sft", "compare", "measure", "report", "demo"):
        assert f"\n  {command} " in shown


@pytest.mark.parametrize("command", ["compare", "demo", "measure", "report", "sft"])
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert f"mofo {command}" in capsys.readouterr().out


def test_flags_for_every_setting_of_a_recipe(capsys):
    from dataclasses import fields

    from mofo.compare.recipe import Recipe

    with pytest.raises(SystemExit, match="0"):
        cli.main(["compare", "--help"])
    shown = capsys.readouterr().out
    for field in fields(Recipe):
        assert f"--{field.name.replace('_', '-')}" in shown


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["compare", "--methods", "adam"], "Unknown method 'adam'"),
        (["compare", "--fractions", "0"], "A fraction is 0.0"),
        (["compare", "--jobs", "0"], "--jobs is 0"),
        (["compare", "--recipe", "none.yaml"], "The recipe none.yaml cannot be read"),
        (["compare", "--data", "none.jsonl"], "none.jsonl does not exist"),
        (["compare", "--probes", "telepathy"], "telepathy"),
        (["measure", "--base", "./none", "--tuned", "./none"], "no model at ./none"),
        (["measure", "--base", "./none", "--tuned", "./none", "--rows", "0"], "--rows is 0"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


@pytest.mark.parametrize("argv", [[], ["dance"], ["compare", "--no-such-flag"]])
def test_unknown_commands_and_flags_are_refused(capsys, argv):
    with pytest.raises(SystemExit, match="2"):
        cli.main(argv)
    assert "usage: mofo" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(tmp_path):
    program = (
        "import sys; sys.modules['rich'] = None; sys.modules['yaml'] = None; sys.modules['trl'] = None; "
        "from mofo.cli import main; sys.exit(main(['compare']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'mofo[train]'" in done.stderr


def test_measuring_a_model_against_itself_finds_no_change(capsys, tiny_model):
    argv = ["measure", "--base", tiny_model, "--tuned", tiny_model, "--probes", "text,divergence"]
    assert cli.main([*argv, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["base"] == results["tuned"]
    assert results["tuned"]["forgotten"]["divergence"] == {"kl": 0.0}
    assert results["distance"]["l2"] == 0
    assert cli.main(argv) == 0
    assert "entries moved" in capsys.readouterr().out

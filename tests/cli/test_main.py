"""`mofo` itself: help, mistakes, exit codes, and how light it is."""

import re
import shlex
import subprocess
import sys

import pytest

from mofo import __version__, cli
from mofo.cli import blend, compare, data, demo, env, gate, landscape, measure, methods, probes, report, tune
from mofo.cli.parser import Parser

COMMANDS = (
    "demo", "data", "sft", "dpo", "grpo", "compare", "tune", "measure", "gate", "blend", "landscape", "report", "diff",
    "apply", "undo", "methods", "probes", "env",
)  # fmt: skip
HEAVY = {
    "torch", "transformers", "trl", "datasets", "accelerate", "pydantic", "rich", "yaml", "numpy", "matplotlib",
}  # fmt: skip


def exit_code(argv):
    try:
        return cli.main(argv)
    except SystemExit as end:  # argparse ends the program after help
        return end.code


def shown(capsys, argv):
    """What a command prints that succeeds."""
    assert exit_code(argv) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["help"], ["--help"], ["-h"]])
def test_help_names_every_command(capsys, argv):
    text = shown(capsys, argv)
    for command in (*COMMANDS, "help"):
        assert re.search(rf"\n  {command}\s", text)
    assert "mofo demo" in text.split("\n\n")[-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_names_it_and_shows_examples(capsys, command):
    text = shown(capsys, [command, "--help"])
    assert text.startswith(f"usage: mofo {command}")
    assert f"\nexamples:\n  mofo {command}" in text
    assert shown(capsys, ["help", command]) == text


@pytest.mark.parametrize("command", ["", *(command for command in COMMANDS if command not in ("sft", "dpo", "grpo"))])
def test_help_fits_80_columns(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown(capsys, ["help", command] if command else ["help"]).splitlines()
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "command", [blend, compare, data, demo, env, gate, landscape, measure, methods, probes, report, tune]
)
def test_examples_are_commands(command):
    parser = Parser(prog="mofo")
    command.add_arguments(parser)
    examples = [line.split("  mofo ")[1] for line in command.EXAMPLES.splitlines() if line.startswith("  mofo ")]
    assert examples
    for example in examples:
        name, *words = shlex.split(example.partition(" > ")[0])
        assert command.__name__.endswith(f".{name}")
        parser.parse(words)


def test_version_is_shown(capsys):
    assert shown(capsys, ["--version"]) == f"mofo {__version__}\n"


def loaded_by(*words):
    """Names of the modules that a command imports."""
    program = (
        "import sys; from mofo.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], [], ["help"], ["nonsense"]]
    + [[name, "--help"] for name in ("data", "measure", "methods", "report", "probes", "env")],
)
def test_help_imports_nothing_heavy(words):
    assert not loaded_by(*words) & HEAVY


def test_help_of_a_comparison_imports_the_recipe_alone():
    assert loaded_by("compare", "--help") & HEAVY == {"pydantic"}
    assert loaded_by("demo", "--help") & HEAVY == {"pydantic", "yaml"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["dance"], "mofo: there is no command dance; `mofo help` lists all commands."),
        (["compar"], "mofo: there is no command compar (did you mean compare?)"),
        (["help", "compar"], "mofo: there is no command compar (did you mean compare?)"),
        (["--verison"], "mofo: there is no flag --verison (did you mean --version?)"),
        (["compare", "--no-such-flag"], "mofo compare: there is no flag --no-such-flag"),
        (["compare", "--held_out_rosw", "3"], "(did you mean --held-out-rows?)"),
        (["compare", "--fract", "0.1"], "there is no flag --fract (did you mean --fractions?)"),
        (["compare", "--num_train_epoch", "1"], "(did you mean --num-train-epochs?)"),
        (["compare", "--out", "x"], "there is no flag --out"),
        (["compare", "x.yaml"], "mofo compare: x.yaml is one argument too many."),
        (["compare", "--data"], "argument --data: expected one argument."),
        (["demo", "--recipe", "x.yaml"], "there is no flag --recipe"),
        (["measure", "--base", "x"], "mofo measure: the following arguments are required: --tuned."),
        (["report"], "mofo report: the following arguments are required: FOLDER."),
    ],
)
def test_unknown_commands_and_flags_are_refused_with_usage_and_a_sentence(capsys, argv, message):
    with pytest.raises(SystemExit, match="2"):
        cli.main(argv)
    usage, sentence = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: mofo")
    assert message in sentence


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["compare", "--methods", "adam"], "Unknown method 'adam'"),
        (["compare", "--fractions", "0"], "mofo.fraction is 0, expected a number above 0"),
        (["compare", "--jobs", "0"], "--jobs is 0"),
        (["compare", "--recipe", "none.yaml"], "The recipe none.yaml cannot be read"),
        (["compare", "--data", "none.jsonl"], "none.jsonl does not exist"),
        (["compare", "--probes", "telepathy"], "telepathy"),
        (["measure", "--base", "./none", "--tuned", "./none"], "no model at ./none"),
        (["measure", "--base", "./none", "--tuned", "./none", "--rows", "0"], "--rows is 0"),
        (["report", "nowhere"], "nowhere"),
        (["sft"], "There is no model: give --model_name_or_path"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith(f"mofo {argv[0]}: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (RuntimeError("the job base ended"), 1, "the job base ended"),
        (OSError(28, "No space left on device", "out/x"), 2, "out/x cannot be used: No space left on device."),
        (OSError("no such thing\nand more"), 2, "no such thing"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("run it again"), 130, "interrupted; run it again"),
    ],
)
def test_failures_are_one_sentence_and_an_exit_code(capsys, monkeypatch, error, code, sentence):
    def fail(arguments):
        raise error

    monkeypatch.setattr(report, "run", fail)
    assert cli.main(["report", "folder"]) == code
    assert capsys.readouterr().err == f"mofo report: {sentence}\n"


@pytest.mark.parametrize("argv", [["compare"], ["sft"], ["demo", "--help"]])
def test_missing_extra_is_named(tmp_path, argv):
    program = (
        "import sys; sys.modules['rich'] = None; sys.modules['yaml'] = None; sys.modules['trl'] = None; "
        "from mofo.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'mofo[train]'" in done.stderr


def test_reader_that_has_seen_enough_is_no_error():
    command = f"set -o pipefail; {sys.executable} -m mofo.cli compare --help | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""

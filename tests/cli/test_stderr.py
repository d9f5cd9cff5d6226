"""The whole of what commands print on stderr: their own sentences, and nothing of the libraries below."""

import json
import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

COMPARE = "--model {model} --data {data} --held-out-rows 4 --steps 2 --points 1 --batch-size 2 --probes text"
SFT = "--model_name_or_path {model} --dataset_name {data} --max_steps 2 --output_dir tuned"
NOISE = re.compile(r"warning|deprecat|Failed to load|accelerator|retry|it/s\]|Traceback", re.IGNORECASE)


@pytest.fixture
def run(tmp_path, tiny_model, tiny_data):
    """Runs a command as a user does, in a folder of its own; returns exit code, stdout and stderr."""

    def run(words, **environment):
        argv = words.format(model=tiny_model, data=tiny_data).split()
        done = subprocess.run(
            [sys.executable, "-m", "mofo.cli", *argv],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"MOFO_CACHE": str(tmp_path / "cache")} | environment,
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.parametrize(
    "words",
    [
        "data {data} --model {model}",
        f"compare {COMPARE} --output out --dry-run",
        pytest.param("measure --base {model} --tuned {model} --data {data}", marks=pytest.mark.full),
        pytest.param("methods", marks=pytest.mark.full),
        pytest.param("probes", marks=pytest.mark.full),
        pytest.param("env", marks=pytest.mark.full),
        f"sft {SFT} --use_peft",
    ],
)
def test_success_leaves_stderr_empty(run, words):
    code, out, error = run(words)
    assert (code, error) == (0, "")
    assert not NOISE.search(out)


def test_comparison_and_its_report_print_progress_alone(run):
    code, out, error = run(f"demo {COMPARE} --methods adamw,mofo --learning-rates 1e-4 --output out")
    assert code == 0
    plan, *progress = error.splitlines()
    assert plan.strip() == "Plan"
    runs = [line for line in progress if line.startswith(("adamw", "mofo"))]
    assert [line.split(":")[1].split(",")[0] for line in runs] == [" step 2/2", " step 2/2"]
    assert not NOISE.search(out + error)
    assert run("report out")[::2] == (0, "")


@pytest.mark.full
def test_training_in_several_processes_prints_what_one_does(run):
    code, out, error = run(f"sft {SFT} --multi_gpu --num_processes 2 --main_process_port 0")
    assert (code, error) == (0, "")
    assert not NOISE.search(out)
    assert run("report tuned")[::2] == (0, "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("data none.jsonl --model {model}", "The data file none.jsonl does not exist"),
        pytest.param(f"compare {COMPARE} --model ./none", "There is no model at ./none", marks=pytest.mark.full),
        pytest.param(f"demo {COMPARE} --fractions 2", "mofo.fraction is 2, expected at most 1", marks=pytest.mark.full),
        pytest.param("measure --base {model} --tuned ./none", "There is no model at ./none", marks=pytest.mark.full),
        pytest.param("report none", "does not exist: give the output folder", marks=pytest.mark.full),
        ("sft --model_name_or_path {model} --dataset_name none.jsonl", "The data file none.jsonl does not exist"),
        (f"sft {SFT} --lora_target_modules none --use_peft", "trl cannot prepare the training: "),
        pytest.param(
            f"sft {SFT} --multi_gpu --num_processes 2 --main_process_port 0 --resume_from_checkpoint none",
            "There is no checkpoint in none",
            marks=pytest.mark.full,
        ),
        pytest.param("methods none", "There is no method 'none'", marks=pytest.mark.full),
        pytest.param("probes none", "There is no probe 'none'", marks=pytest.mark.full),
    ],
)
def test_errors_are_one_sentence(run, words, sentence):
    code, out, error = run(words)
    assert code == 2
    assert error.count("\n") == 1, error
    assert error.startswith(f"mofo {words.split()[0]}: ")
    assert sentence in error
    assert not NOISE.search(out)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param("data some-org/never-fetched --model {model}", marks=pytest.mark.full),
        pytest.param("measure --base some-org/never-fetched --tuned {model}", marks=pytest.mark.full),
        pytest.param("compare --model {model} --data some-org/never-fetched", marks=pytest.mark.full),
        pytest.param("sft --model_name_or_path some-org/never-fetched --dataset_name {data}", marks=pytest.mark.full),
        "sft --model_name_or_path {model} --dataset_name some-org/never-fetched --output_dir tuned",
    ],
)
def test_hub_that_does_not_answer_is_one_sentence(run, words):
    code, _, error = run(words, HF_ENDPOINT="http://127.0.0.1:1")
    assert code == 2
    assert error.count("\n") == 1, error
    assert "some-org/never-fetched" in error
    assert "it does not answer" in error


@pytest.mark.full
def test_verbose_lets_libraries_speak_and_shows_where(run):
    _, _, error = run(f"sft {SFT} --verbose")
    assert NOISE.search(error)


@pytest.mark.full
def test_json_is_all_that_is_on_stdout(run):
    for words in (f"compare {COMPARE} --output out --json", "report out --json", "data {data} --model {model} --json"):
        code, out, _ = run(words)
        assert code == 0
        assert json.loads(out)

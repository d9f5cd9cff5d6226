"""`mofo compare --array`: the script, with a stand-in for sbatch that does each job at once."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from mofo.cli import main
from mofo.compare.folder import OutputFolder
from mofo.results import load_results

SBATCH = """\
#!/usr/bin/env python3
import os, subprocess, sys
flags = {w.partition("=")[0]: w.partition("=")[2] for w in sys.argv[1:]}
with open("sbatch.log", "a") as log:
    log.write(f"{flags['--job-name']} {flags.get('--dependency', '')} {flags.get('--array', '')}\\n")
first, _, last = flags.get("--array", "0-0").partition("-")
for number in range(int(first), int(last) + 1):
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(number)}
    if os.environ.get("DO_JOBS"):
        subprocess.run(["sh", "-c", flags["--wrap"]], env=environment, check=True, stdin=subprocess.DEVNULL)
    else:
        command = flags["--wrap"].replace("exec ", "echo ")
        with open("jobs.log", "a") as log:
            subprocess.run(["sh", "-c", command], env=environment, check=True, stdout=log)
print(41)
"""


@pytest.fixture
def recipe(tiny_model, tiny_data, tmp_path, monkeypatch):
    """A recipe of two runs, in a folder whose name must be quoted, with sbatch in the path."""
    folder = tmp_path / "on a cluster"
    folder.mkdir()
    values = {
        "model": str(Path(tiny_model).resolve()),
        "data": str(Path(tiny_data).resolve()),
        "held_out_rows": 4,
        "methods": ["adamw", "mofo"],
        "steps": 2,
        "points": 1,
        "probes": ["text"],
        "save": "none",
        "samples": 0,
    }
    (folder / "recipe.yaml").write_text(json.dumps(values))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(folder)
    return folder


def submit(capsys, *words):
    """Make the script and run it."""
    assert main(["compare", "--recipe", "recipe.yaml", "--output", "out put", "--array", *words]) == 0
    script = capsys.readouterr().out
    Path("submit.sh").write_text(script)
    subprocess.run(["sh", "submit.sh"], check=True, capture_output=True)


def test_base_comes_first_then_a_job_for_each_run_then_the_report(recipe, capsys):
    submit(capsys)
    submitted = Path("sbatch.log").read_text().splitlines()
    assert submitted == ["mofo-base  ", "mofo-run afterok:41 0-1", "mofo-report afterany:41 "]
    names = [run.name for run in OutputFolder(Path("out put")).recipe.runs()]
    jobs = [line.split(" -m ")[1] for line in Path("jobs.log").read_text().splitlines()]
    assert jobs == [
        "mofo.compare.worker out put base --alone",
        *(f"mofo.compare.worker out put {name} --alone" for name in names),
        "mofo.cli compare --recipe out put/recipe.yaml --output out put",
    ]


def test_dry_run_prints_and_writes_nothing(recipe, capsys):
    assert main(["compare", "--recipe", "recipe.yaml", "--output", "out", "--array", "--dry-run"]) == 0
    assert "--array=0-1" in capsys.readouterr().out
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tune"], "--array needs to know all runs beforehand"),
        (["--jobs", "2"], "does not go with --launch, --jobs, --until and --on"),
        (["--data", "missing.jsonl"], "missing.jsonl does not exist"),
    ],
)
def test_what_cannot_be_an_array_is_refused(recipe, capsys, words, message):
    assert main(["compare", "--recipe", "recipe.yaml", "--output", "out", "--array", *words]) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.full
@pytest.mark.processes
def test_jobs_of_an_array_end_with_the_results_of_a_comparison(recipe, capsys, monkeypatch):
    assert main(["compare", "--recipe", "recipe.yaml", "--output", "here"]) == 0
    capsys.readouterr()
    monkeypatch.setenv("DO_JOBS", "1")
    submit(capsys)
    here, there = load_results(Path("here")), load_results(Path("out put"))
    assert there.complete
    assert [run.points[-1].learned for run in here.runs] == [run.points[-1].learned for run in there.runs]

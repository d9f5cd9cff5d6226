import json
import os
import shutil
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from mofo.compare import jobs, prepare
from mofo.compare.folder import OutputFolder, RunResult
from mofo.compare.gather import gather
from mofo.compare.recipe import make_recipe, read_recipe
from mofo.errors import UserError
from mofo.results import load_results


@pytest.fixture(scope="module")
def data(tmp_path_factory, sums):
    file = tmp_path_factory.mktemp("data") / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in sums))
    return str(file)


@pytest.fixture(scope="module")
def values(tiny_model, data):
    """A recipe that takes seconds."""
    return {
        "model": tiny_model,
        "data": data,
        "held_out_rows": 6,
        "methods": ["adamw", "mofo"],
        "settings": {"learning_rate": 1e-2, "fraction": 0.1},
        "steps": 6,
        "batch_size": 2,
        "points": 3,
        "probes": ["text", "divergence"],
        "answers": 2,
        "answer_tokens": 4,
        "precision": "float32",
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory, values):
    """The output folder of a comparison that ran to its end; do not write into it."""
    output = tmp_path_factory.mktemp("compare") / "out"
    jobs.compare(make_recipe(values), output, jobs=2)
    return output


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "out")


@pytest.fixture
def no_jobs(monkeypatch):
    """Makes a test fail that starts a job."""

    def refuse(*arguments):
        raise AssertionError(f"started a job: {arguments}")

    monkeypatch.setattr(jobs, "start_job", refuse)


def test_results_have_all_that_was_measured(finished):
    results = load_results(finished)
    assert results.complete
    assert results.missing == []
    assert set(results.versions) == {"mofo", "python", "torch", "transformers"}
    assert results.base.forgotten["divergence"] == {"kl": 0.0}
    assert results.base.learned["sums"]["accuracy"] is not None
    assert [task.name for task in results.tasks] == ["sums"]
    assert results.reference == "adamw"
    assert results.methods["mofo"].label == "MoFO"
    assert results.settings["learning_rate"].label == "lr"
    metrics = [(metric.kind, metric.source, metric.name, metric.task) for metric in results.metrics]
    assert metrics == [
        ("learned", "sums", "loss", "sums"),
        ("learned", "sums", "accuracy", "sums"),
        ("forgotten", "text", "loss", None),
        ("forgotten", "divergence", "kl", None),
        ("distance", "weights", "l2", None),
        ("distance", "weights", "moved", None),
    ]
    adamw, mofo = results.runs
    assert (adamw.method, adamw.settings) == ("adamw", {"learning_rate": 1e-2})
    assert (mofo.method, mofo.settings) == ("mofo", {"learning_rate": 1e-2, "fraction": 0.1})
    for run in results.runs:
        assert [point.step for point in run.points] == [2, 4, 6]
        assert [point.task for point in run.points] == ["sums"] * 3
        assert [step.step for step in run.training] == [1, 2, 3, 4, 5, 6]
        assert run.points[-1].learned["sums"]["loss"] < results.base.learned["sums"]["loss"]
        assert run.points[-1].forgotten["divergence"]["kl"] > 0
        assert [point.learned["sums"].get("accuracy") is None for point in run.points] == [True, True, False]
        assert run.distance.l2 == run.points[-1].distance.l2 > 0
        assert {layer.layer for layer in run.distance.layers} >= {"0", "1", "embed_tokens"}
        assert run.seconds.total >= run.seconds.training >= run.seconds.optimizer > 0
        assert run.peak_memory_bytes > 10_000_000
    assert mofo.distance.moved < 0.6 < 0.9 < adamw.distance.moved
    assert [point.tokens for point in adamw.points] == [point.tokens for point in mofo.points]


def test_results_have_standard_errors_of_numbers_and_changes(finished):
    results = load_results(finished)
    assert results.base.errors.forgotten["text"]["loss"] > 0
    assert results.base.errors.learned["sums"].keys() == {"loss", "accuracy"}
    assert results.base.change_errors.forgotten == {}
    for run in results.runs:
        for point in run.points:
            assert 0 < point.change_errors.forgotten["divergence"]["kl"] < point.forgotten["divergence"]["kl"]
            assert point.change_errors.forgotten["text"].keys() == {"loss"}
            assert point.change_errors.learned["sums"]["loss"] > 0


def test_results_have_answers_of_the_base_and_of_each_run(finished):
    results = load_results(finished)
    assert len(results.samples) == 3 + 2
    assert "plus" in results.samples[0].expected
    assert [sample.expected for sample in results.samples[3:]] == [None, None]
    assert all(len(run.samples) == len(results.samples) for run in results.runs)
    assert "Answers" in (finished / "report.html").read_text()


def test_results_have_the_way_back_to_each_run(finished, values):
    for run in load_results(finished).runs:
        assert (finished / run.model / "config.json").exists()
        assert run.command.startswith(f"--methods {run.method} --set {run.method}.learning_rate=0.01")
        assert run.command.endswith("--seeds 0")


def test_output_folder_has_recipe_data_models_plots_and_report(finished):
    assert (finished / "report.html").stat().st_size > 10_000
    assert list((finished / "plots").glob("*.png"))
    assert not list(finished.rglob("checkpoint-*"))
    recipe = make_recipe(read_recipe(finished / "recipe.yaml"))
    assert len(recipe.runs()) == 2
    rows = {
        name: (finished / "data" / "1" / f"{name}.jsonl").read_text().splitlines() for name in ("train", "held_out")
    }
    assert (len(rows["train"]), len(rows["held_out"])) == (18, 6)
    assert not set(rows["train"]) & set(rows["held_out"])
    for run in recipe.runs():
        AutoModelForCausalLM.from_pretrained(finished / "runs" / run.name / "model")


def test_mofo_moved_at_most_k_entries_a_step(finished, tiny_model):
    tuned = finished / "runs" / "mofo-lr0.01-f0.1-s0" / "model" / "model.safetensors"
    with safe_open(f"{tiny_model}/model.safetensors", "pt") as before, safe_open(tuned, "pt") as after:
        for name in before.keys():  # noqa: SIM118 (safe_open is no mapping)
            moved = (before.get_tensor(name) != after.get_tensor(name)).sum().item()
            size = before.get_tensor(name).numel()
            assert 0 < moved <= 5 * max(1, size // 10)  # five of the six steps have a learning rate above 0


def test_finished_folder_is_shown_again_without_work(copy, values, no_jobs):
    before = (copy / "results.json").read_bytes()
    jobs.compare(make_recipe(values), copy)
    assert (copy / "results.json").read_bytes() == before


def test_gather_names_the_runs_that_are_missing(copy, values):
    more = make_recipe(values | {"seeds": [0, 1]})
    results = gather(more, OutputFolder(copy))
    assert (results.complete, results.missing) == (False, ["adamw-lr0.01-s1", "mofo-lr0.01-f0.1-s1"])
    assert load_results(copy) == results


def test_another_recipe_is_refused_and_changes_nothing(copy, values, no_jobs):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"holds another comparison \(steps was 6, is 7\)"):
        jobs.compare(make_recipe(values | {"steps": 7}), copy)
    with pytest.raises(UserError, match=r"lacks its runs adamw-lr0\.01-s0"):
        jobs.compare(make_recipe(values | {"methods": ["mofo"]}), copy)
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}


def test_recipe_with_one_more_seed_adds_its_run_alone(copy, values, monkeypatch):
    started = []
    start = jobs.start_job
    monkeypatch.setattr(jobs, "start_job", lambda *a: started.append(a[1]) or start(*a))
    more = {"methods": ["adamw", "mofo", {"adamw": {}, "seeds": [1]}]}
    results = jobs.compare(make_recipe(values | more), copy)
    assert started == ["adamw-lr0.01-s1"]
    assert [run.name for run in results.runs] == ["adamw-lr0.01-s0", "mofo-lr0.01-f0.1-s0", "adamw-lr0.01-s1"]


def test_run_that_was_left_at_a_step_is_not_started_again(copy, values, monkeypatch):
    started = []

    def left(folder, name, number, jobs, launch, until):
        started.append((name, until))
        return subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)

    monkeypatch.setattr(jobs, "start_job", left)
    more = make_recipe(values | {"methods": ["adamw", "mofo", {"adamw": {}, "seeds": [1]}]})
    said = Console(file=StringIO())
    results = jobs.compare(more, copy, until=3, console=said)
    assert started == [("adamw-lr0.01-s1", 3)]
    assert results.missing == ["adamw-lr0.01-s1"]
    assert "1 run left at step 3" in said.file.getvalue()


def test_comparison_resumes_from_its_results_without_rows_and_runs(copy, values, monkeypatch):
    before = load_results(copy)
    for name in ("data", "runs", "logs"):
        shutil.rmtree(copy / name)
    started = []
    start = jobs.start_job
    monkeypatch.setattr(jobs, "start_job", lambda *a: started.append(a[1]) or start(*a))
    results = jobs.compare(make_recipe(values | {"seeds": [0, 1], "methods": ["mofo", "adamw"]}), copy)
    assert sorted(started) == ["adamw-lr0.01-s1", "mofo-lr0.01-f0.1-s1"]
    finished = [run.model_dump(exclude={"model"}) for run in results.runs if run.seed == 0]  # models went with the runs
    assert finished == [run.model_dump(exclude={"model"}) for run in before.runs[::-1]]


def test_results_of_other_data_are_refused(copy, values, tmp_path, no_jobs):
    shutil.rmtree(copy / "data")
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps({"question": f"{i}?", "answer": f"{i}"}) + "\n" for i in range(9)))
    recipe = make_recipe(read_recipe(copy / "recipe.yaml") | {"data": str(file)})
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    with pytest.raises(UserError, match="was made with other data: 18 training and 6 held-out rows, now 3 and 6"):
        jobs.compare(recipe, copy)


def test_overwrite_begins_anew_but_never_in_a_strange_folder(copy, values, tmp_path, monkeypatch):

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "start_job", stop)
    with pytest.raises(KeyboardInterrupt):
        jobs.compare(make_recipe(values | {"steps": 7}), copy, overwrite=True)
    assert not (copy / "results.json").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="not a folder of mofo compare"):
            jobs.compare(make_recipe(values), mine, overwrite=overwrite)
    assert (mine / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "none.jsonl"}, "does not exist"),
        ({"model": "./none"}, "no model at ./none"),
        ({"probes": ["tekst"]}, "tekst"),
        ({"probes": ["choice:none.jsonl"]}, "none.jsonl"),
        ({"held_out_rows": 24}, "too few to hold 24 out"),
        ({"max_length": 3}, "max_length = 3 tokens"),
    ],
)
def test_bad_input_leaves_nothing(tmp_path, values, change, message, no_jobs):
    with pytest.raises(UserError, match=message):
        jobs.compare(make_recipe(values | change), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_quantised_weights_are_refused_before_anything_is_loaded(tmp_path, values, tiny_model, no_jobs):
    quantised = shutil.copytree(tiny_model, tmp_path / "quantised")
    config = json.loads((quantised / "config.json").read_text())
    (quantised / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    (quantised / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"are quantised \(awq\) and cannot be trained"):
        jobs.compare(make_recipe(values | {"model": str(quantised)}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("save", ["best", "all"])
def test_drop_models_keeps_the_best_of_each_method(copy, values, save):
    folder = OutputFolder(copy)
    run = folder.run("mofo-lr0.01-f0.1-s0")
    for seed, loss in ((1, 0.5), (2, None), (3, 0.1), (4, 0.2)):
        name = f"mofo-lr0.01-f0.1-s{seed}"
        shutil.copytree(run.path, copy / "runs" / name)
        (result,) = run.result.runs
        points = [result.points[-1].model_copy(update={"learned": {"sums": {"loss": loss}}})]
        changed = result.model_copy(update={"name": name, "seed": seed, "points": points})
        folder.run(name).write_result(RunResult(runs=[changed]))
    jobs.drop_models(make_recipe(values | {"save": save}), folder)
    kept = {name for name in folder.begun_runs if folder.run(name).model.is_dir()}
    everything = {"adamw-lr0.01-s0", *(f"mofo-lr0.01-f0.1-s{seed}" for seed in range(5))}
    assert kept == ({"adamw-lr0.01-s0", "mofo-lr0.01-f0.1-s3"} if save == "best" else everything)


def test_disk_that_would_fill_up_is_noticed_before(tmp_path, values, no_jobs, monkeypatch):
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(UserError, match="GB free and the comparison needs"):
        jobs.compare(make_recipe(values), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_job_that_fails_is_named_with_its_last_words(tmp_path, values, monkeypatch):
    write = prepare.write_jsonl
    monkeypatch.setattr(prepare, "write_jsonl", lambda path, rows: write(path, [{}]))
    with pytest.raises(RuntimeError, match=r"The job base ended with exit code 1: .*base\.txt"):
        jobs.compare(make_recipe(values), tmp_path / "out")


def test_job_that_was_killed_says_that_memory_may_have_run_out(tmp_path, values, monkeypatch):
    monkeypatch.setattr(jobs, "WORKER", ("-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    with pytest.raises(UserError, match=r"The job base was killed \(SIGKILL\), as systems do where memory runs out"):
        jobs.compare(make_recipe(values), tmp_path / "out")


@pytest.mark.parametrize("name", ["file", "file/out"])
def test_file_in_the_place_of_the_output_folder_is_refused(tmp_path, values, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"file is a file: choose another --output"):
        jobs.compare(make_recipe(values), tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


def test_folder_that_cannot_be_written_is_refused(values):
    with pytest.raises(UserError, match=r"/proc/out cannot be written \(.+\): choose another --output"):
        jobs.compare(make_recipe(values), Path("/proc/out"))


def test_second_process_in_one_folder_is_refused(tmp_path, values):
    from filelock import FileLock

    with FileLock(tmp_path / ".out.lock"), pytest.raises(UserError, match="Another process is working"):
        jobs.compare(make_recipe(values), tmp_path / "out")


@pytest.mark.processes
@pytest.mark.parametrize("score", ["momentum", "random"])
def test_killed_comparison_resumes_to_the_same_results(tmp_path, values, score):
    methods = [{"mofo": {"score": score}}]
    recipe = make_recipe(values | {"methods": methods, "steps": 40, "points": 20, "answers": 0})
    whole = jobs.compare(recipe, tmp_path / "whole")
    script = (
        "from pathlib import Path; import sys, yaml; from mofo.compare.jobs import compare; "
        "from mofo.compare.recipe import make_recipe; "
        "compare(make_recipe(yaml.safe_load(sys.argv[1])), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", script, json.dumps(recipe.to_dict()), str(tmp_path / "killed")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    run = tmp_path / "killed" / "runs" / recipe.runs()[0].name
    while not (run / "checkpoints" / "1" / "checkpoint-6").exists():
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)  # the job ends by itself when its parent is gone
    assert len((run / "metrics.jsonl").read_text().splitlines()) < 60
    begun = load_results(tmp_path / "killed")
    assert (begun.complete, begun.missing, begun.runs) == (False, [recipe.runs()[0].name], [])
    resumed = jobs.compare(recipe, tmp_path / "killed")
    assert without_time(resumed) == without_time(whole)


def without_time(results):
    return [run.model_dump(exclude={"seconds", "peak_memory_bytes"}) for run in results.runs]

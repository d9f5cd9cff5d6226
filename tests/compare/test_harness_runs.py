"""Comparisons measured by tasks of the harness: along the way, at the end only, and as what is learned."""

import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from mofo import cli
from mofo.compare.fine_tuning import FineTuning
from mofo.compare.folder import OutputFolder
from mofo.compare.gather import gather
from mofo.compare.job import Job, measure_base
from mofo.compare.measuring import FILE_NAME, progress_in, read_progress
from mofo.compare.prepare import prepare
from mofo.compare.recipe import make_recipe, read_recipe
from mofo.errors import UserError
from mofo.measure.progress import report
from mofo.report import write_report
from reference import harness_rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return str(harness_rows.write_folder(tmp_path_factory.mktemp("rows")))


def values(tiny_model, tiny_data, rows, **changes):
    return {
        "model": tiny_model,
        "data": tiny_data,
        "held_out_rows": 4,
        "methods": ["adamw"],
        "settings": {"learning_rate": 1e-2},
        "steps": 4,
        "points": 2,
        "samples": 0,
        "harness_data": rows,
    } | changes


@pytest.fixture(scope="module")
def results(tiny_model, tiny_data, rows, tmp_path_factory):
    """A comparison, and the folder in which it lies."""
    how = {"probes": ["text", "harness:winogrande"], "end_probes": ["harness:arc_easy@5"], "learned": "harness:piqa"}
    recipe = make_recipe(values(tiny_model, tiny_data, rows, **how))
    folder = OutputFolder(tmp_path_factory.mktemp("compared") / "comparison")
    prepare(recipe, folder, overwrite=False)
    measure_base(Job(folder.path))
    (run,) = recipe.runs()
    folder.run(run.name).write_run(run)
    FineTuning(Job(folder.path), run.name).train()
    return gather(recipe, folder), folder


def test_end_probes_are_taken_of_base_and_end_alone(results):
    found, _ = results
    assert set(found.base.forgotten) == {"text", "winogrande", "arc_easy"}
    early, end = found.runs[0].points
    assert set(early.forgotten) == {"text", "winogrande"}
    assert set(end.forgotten) == {"text", "winogrande", "arc_easy"}


def test_learning_is_what_the_probe_measures(results):
    found, _ = results
    assert found.learning.label == "piqa"
    assert found.learning.higher_is_better
    assert all(found.learning.of(point) is not None for point in (found.base, *found.runs[0].points))
    assert [metric.name for metric in found.metrics if metric.kind == "learned" and metric.headline] == ["acc_norm"]


def test_questions_are_paired_with_the_bases_and_quoted_where_they_changed(results):
    found, folder = results
    early, end = found.runs[0].points
    metric = next(metric for metric in found.metrics if metric.label == "arc_easy log-probability")
    assert metric.paired(end).units == 5
    for metric in (m for m in found.metrics if m.source in ("arc_easy", "winogrande") and m.kind == "forgotten"):
        if (paired := metric.paired(end)).lost is not None:
            changed = {*paired.lost_questions, *paired.won_questions}
            assert len(changed) == paired.lost + paired.won
            assert set(found.questions.get(metric.source, {}).get(metric.name, {})) == changed
    assert early.paired.forgotten["winogrande"]["acc"].lost_questions == []
    answers = folder.run(found.runs[0].name).path / "answers"
    assert {file.name for file in answers.iterdir()} == {"arc_easy.jsonl", "winogrande.jsonl", "learned.jsonl"}
    assert len((answers / "arc_easy.jsonl").read_text().splitlines()) == 5
    assert (folder.path / "answers" / "arc_easy.jsonl").exists()
    assert not (folder.path / FILE_NAME).exists()


def test_page_shows_questions_lost_and_won(results):
    _, folder = results
    page = write_report(folder.path).read_text()
    assert "Questions lost and won" in page
    assert "insufficient evidence" in page


def test_questions_are_kept_where_the_answers_are_gone(results):
    found, folder = results
    answers = folder.path / "answers"
    answers.rename(folder.path / "gone")
    again = gather(folder.recipe, folder)
    (folder.path / "gone").rename(answers)
    assert again.questions == found.questions


def test_rows_may_lie_elsewhere_when_a_comparison_goes_on(tiny_model, tiny_data, rows):
    first = make_recipe(values(tiny_model, tiny_data, rows, probes=["harness:piqa"]))
    elsewhere = make_recipe(values(tiny_model, tiny_data, "elsewhere", probes=["harness:piqa"]))
    assert elsewhere.changes(first) == []
    assert make_recipe(values(tiny_model, tiny_data, rows, learned="harness:piqa")).changes(first)


def test_probes_are_checked_before_the_first_job(tiny_model, tiny_data, rows, tmp_path):
    for changes, message in (
        ({"end_probes": ["harness:humaneval"]}, "allow it with --allow-code-execution"),
        ({"learned": "harness:piqa@none"}, "limit of harness:piqa@none"),
        ({"probes": ["harness:arc_easy"], "end_probes": ["harness:arc_easy@2"]}, "Two probes"),
        ({"probes": ["harness:medmcqa"]}, "no rows of medmcqa"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(
                make_recipe(values(tiny_model, tiny_data, rows, **changes)),
                OutputFolder(tmp_path / "o"),
                overwrite=False,
            )


def test_progress_of_measuring_is_a_file_while_it_lasts(tmp_path):
    with progress_in(tmp_path):
        assert read_progress(tmp_path) is None
        report("gsm8k", 50, 200)
        assert read_progress(tmp_path).text == "gsm8k 50/200"
        report("gsm8k", 200, 200)
        assert read_progress(tmp_path).text.startswith("gsm8k 200/200, 0 s left")
    assert read_progress(tmp_path) is None


def test_measure_fails_on_a_regression_alone(tiny_model, rows, tmp_path):
    argv = ["measure", "--base", tiny_model, "--tuned", tiny_model, "--probes", "harness:arc_easy@5"]
    argv += ["--harness-data", rows, "--save-answers", str(tmp_path), "--fail-on", "harness:arc_easy@5"]
    assert cli.main([*argv, "--output", str(tmp_path / "numbers.csv")]) == 0
    lines = (tmp_path / "numbers.csv").read_text().splitlines()
    assert lines[0].startswith("metric,probe,unit,base")
    assert lines[1].split(",")[:3] == ["arc_easy", "arc_easy", "%"]
    assert lines[1].split(",")[-5:] == ["5", "0", "0", "1.0", "unclear"]
    assert (tmp_path / "base" / "arc_easy.jsonl").read_text() == (tmp_path / "tuned" / "arc_easy.jsonl").read_text()
    assert json.loads((tmp_path / "base" / "arc_easy.jsonl").read_text().splitlines()[0])["scores"]


RECIPES = Path(__file__).parents[2] / "experiments" / "harness"


@pytest.mark.full
@pytest.mark.parametrize(("name", "allowed"), [("metamath", True), ("metamath", False), ("small", False)])
def test_recipe_of_the_experiment_is_ready_to_run(tiny_model, tiny_data, tmp_path, monkeypatch, name, allowed):
    folder = harness_rows.write_folder(tmp_path / "rows")
    harness_rows.write_sentence_splitter(folder)
    harness_rows.write_all_of_mmlu(folder)
    changes = {"model": tiny_model, "data": tiny_data, "held_out": None, "held_out_rows": 4, "columns": {}}
    changes |= {"train_rows": None, "batch_size": 2, "gradient_accumulation": 1, "samples": 0, "precision": "float32"}
    changes |= {"weights": "float32", "harness_data": str(folder), "allow_code_execution": allowed}
    recipe = make_recipe(read_recipe(RECIPES / f"{name}.yaml") | changes)
    found = prepare(recipe, OutputFolder(tmp_path / "out"), overwrite=False, dry_run=True)
    assert found.runs == len(recipe.runs())
    assert not (tmp_path / "out").exists()

"""`mofo report` of what `mofo sft` left."""

import csv
import io
import json

import pytest

from mofo import cli
from mofo.report.training import TrainingReport, read_report
from mofo.training import LogEntry, Training, write_training

TRAINING = Training(
    base="smollm2-135m",
    data="sums & more.jsonl",
    method="mofo",
    label="MoFO",
    settings={"mofo": {"learning_rate": 1e-5, "fraction": 0.15, "betas": [0.9, 0.999]}, "l2": {"strength": 0.1}},
    arguments={"max_length": 1024, "seed": 42, "packing": False, "pad_token": None},
    steps=12,
    planned_steps=12,
    rows=24,
    epochs=4.0,
    tokens=2596,
    versions={"mofo": "0.1.0", "torch": "2.13.0"},
)
LOG = [
    LogEntry(step=5, epoch=1.7, tokens=1081, loss=2.5, learning_rate=1e-5, selected=0.15, moved=0.14, distance=0.1),
    LogEntry(step=10, epoch=3.3, tokens=2163, held_out_loss=2.4),
    LogEntry(step=12, epoch=4.0, tokens=2596, loss=1.25, learning_rate=0.0, selected=0.15, moved=0.1, distance=0.2),
]


@pytest.fixture
def folder(tmp_path):
    write_training(TRAINING, LOG, tmp_path)
    return tmp_path


def test_report_says_what_came_out_and_what_to_do_next(folder, capsys):
    assert cli.main(["report", str(folder)]) == 0
    shown = capsys.readouterr().out
    outcome = (
        "Result: MoFO trained smollm2-135m for 12 steps on 2,596 tokens: the training loss went from 2.500 to 1.250, "
        "at a distance of 0.200 from the base.\n"
    )
    assert shown.startswith(outcome)
    assert f"mofo measure --base smollm2-135m --tuned {folder} --data HELD_OUT.jsonl" in shown
    assert "l2.strength" in shown
    assert shown.endswith(f"Report: {folder / 'report.html'}\n")


def test_page_has_curves_and_all_settings(folder, capsys):
    cli.main(["report", str(folder)])
    page = (folder / "report.html").read_text()
    assert "smollm2-135m, fine-tuned with MoFO</h1>" in page
    assert "sums &amp; more.jsonl" in page
    assert page.count("<picture>") == 3
    assert "<dt>packing</dt><dd>False</dd>" in page
    assert (folder / "plots" / "training.png").stat().st_size > 10_000


def test_report_for_programs(folder, capsys):
    assert cli.main(["report", str(folder), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["tokens"], printed["log"][0]["loss"], printed["log"][1]["loss"]) == (2596, 2.5, None)
    assert cli.main(["report", str(folder), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["loss"] for row in rows] == ["2.5", "", "1.25"]
    assert cli.main(["report", str(folder), "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("| step | epoch | tokens | loss | held_out_loss |")


def test_report_of_a_diverged_training_says_so(tmp_path):
    write_training(TRAINING, [LOG[0], LogEntry(step=7, loss=float("nan"))], tmp_path)
    assert (tmp_path / "mofo_log.jsonl").read_text().splitlines()[1] == '{"step":7,"loss":null}'
    assert "diverged at step 7: its training loss was not finite" in read_report(tmp_path).outcome


def test_report_of_an_unfinished_training_without_a_log(folder):
    half = TrainingReport(folder, TRAINING.model_copy(update={"steps": 1}), [])
    assert half.outcome == "MoFO trained smollm2-135m for 1 step of 12 on 2,596 tokens; no loss was logged."


def test_damaged_training_is_one_sentence(folder, capsys):
    (folder / "mofo.json").write_text("[]")
    assert cli.main(["report", str(folder)]) == 2
    assert "mofo.json or its log is damaged" in capsys.readouterr().err

"""`mofo report` of `forgetting.json`: a watched training, or the way between two models."""

import csv
import io
import json
import re

import numpy as np
import pytest
from fake import KL, make_comparison, path_results, write_results
from matplotlib.figure import Figure
from rich.console import Console

from mofo import cli
from mofo.forgetting import FILE_NAME, Forgetting, Mark, find_knee, load_forgetting, write_forgetting
from mofo.report.sections.watched import beside
from mofo.report.way import way_csv, way_legend, way_markdown, way_outcome, way_table
from mofo.results import Errors, Metric, Point, TrainingStep
from mofo.training import LogEntry, Training, write_training

TEXT = Metric(
    kind="forgotten", source="text", name="loss", label="text loss", description="a story", unit="nats per token"
)
CHOICE = Metric(
    kind="forgotten", source="choice", name="accuracy", label="choice accuracy", unit="%", scale=100,
    higher_is_better=True, headline=False,
)  # fmt: skip
LOSS = Metric(kind="learned", source="task", name="loss", label="held-out loss", unit="nats per token")


def point(kl, text, loss=None, choice=0.6):
    errors = {"divergence": {"kl": 0.01}, "text": {"loss": 0.02}}
    learned = {} if loss is None else {"task": {"loss": loss}}
    return Point(
        step=0,
        learned=learned,
        forgotten={"divergence": {"kl": kl}, "text": {"loss": text}, "choice": {"accuracy": choice}},
        change_errors=Errors(learned={"task": {"loss": 0.01}}, forgotten=errors),
    )


def watched(**changes):
    fields = {
        "over": "step",
        "model": "tiny",
        "metrics": [KL, TEXT, CHOICE],
        "base": point(0.0, 3.0),
        "marks": [Mark(at=50, point=point(0.1, 3.01)), Mark(at=100, point=point(0.25, 3.03))],
        "training": [TrainingStep(step=10, loss=2.0), TrainingStep(step=100, loss=1.0)],
    }
    return Forgetting.model_validate(fields | changes)


def way(points, **changes):
    """A way from a base to a tuned model: shares with divergence, text loss and held-out loss."""
    marks = [Mark(at=at, point=point(kl, text, loss)) for at, kl, text, loss in points]
    fields = {"over": "scale", "metrics": [LOSS, KL, TEXT], "base": point(0.0, 3.0, 2.0), "marks": marks}
    fields |= {"training": []}
    record = watched(**fields | changes)
    return record.model_copy(update={"knee": find_knee(record)})


BENT = [(0.25, 0.02, 3.0, 1.7), (0.5, 0.08, 3.0, 1.35), (0.75, 0.2, 3.0, 1.1), (1.0, 0.4, 3.03, 1.0)]


def printed(table):
    console = Console(width=160, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_outcome_of_a_watched_training_is_what_it_forgot():
    assert way_outcome(watched()) == (
        "After step 100, tiny moved away from the base on divergence (+0.250 ±0.010); shows no change beyond noise on "
        "text loss (+0.0300 ±0.020)."
    )
    worse = watched(marks=[Mark(at=7, point=point(0.0001, 3.5))])
    assert "got worse on text loss (+0.500 ±0.020)" in way_outcome(worse)
    assert way_outcome(watched(marks=[])) == "Nothing was measured of tiny yet but the base."
    broken = watched(marks=[Mark(at=7, point=point(float("nan"), 2.5))])
    assert way_outcome(broken) == "After step 7, tiny gained on text loss (−0.500 ±0.020); has no finite divergence."


def test_knee_is_farthest_from_the_line_between_the_ends():
    # Learned and forgotten as shares of the end: (0.3, 0.05), (0.65, 0.2), (0.9, 0.5), (1, 1).
    assert way(BENT).knee == 0.5
    assert way_outcome(way(BENT)) == (
        "At 0.5 of the change, tiny keeps 65 % of what it learned and 20 % of the divergence: the knee of the way."
    )


@pytest.mark.parametrize(
    ("points", "outcome"),
    [
        ([(0.5, 0.3, 3.0, 1.9), (1.0, 0.4, 3.0, 1.0)], "No share of the change that was measured keeps more"),
        ([(1.0, 0.4, 3.0, 1.0)], "No share of the change that was measured keeps more"),
        ([(0.5, 0.1, 3.0, 1.99), (1.0, 0.4, 3.0, 1.99)], "did not learn beyond chance on these data"),
        ([(0.5, 0.0, 3.0, 1.5), (1.0, 0.0, 3.01, 1.0)], "forgot nothing beyond chance on these probes"),
    ],
)
def test_way_without_a_knee_says_why(points, outcome):
    assert way(points).knee is None
    assert outcome in way_outcome(way(points))


def test_knee_is_judged_by_the_first_probe_that_got_worse():
    points = [(0.5, 0.0, 3.05, 1.3), (1.0, 0.0, 3.5, 1.0)]
    assert way(points).forgetting == TEXT
    assert "10 % of the text loss" in way_outcome(way(points))


def test_table_of_a_way_marks_the_knee():
    lines = printed(way_table(way(BENT))).splitlines()
    rows = {line.split()[0]: line.split() for line in lines if re.match(r"\s*[\d.]+\s{2,}", line)}
    assert list(rows) == ["0", "0.25", "0.5", "0.75", "1"]
    assert [name for name, row in rows.items() if row[-1] == "knee"] == ["0.5"]
    assert rows["0.75"][1:] == ["−0.900", "±0.010", "+0.200", "±0.010", "0", "±0.020", "90", "%", "50", "%"]
    assert rows["0"][1:] == ["base", "2.000", "base", "0", "base", "3.000", "0", "%", "0", "%"]


def test_table_of_a_watched_training_has_the_base_and_each_step():
    text = printed(way_table(watched()))
    assert [line.split()[0] for line in text.splitlines() if re.match(r"\s*[\d.]+\s{2,}", line)] == ["0", "50", "100"]
    assert "kept" not in text
    assert "choice" not in text
    assert way_legend(watched()) == [
        "divergence (base 0, nats per token)",
        "text loss: a story (base 3.000, nats per token)",
    ]


def test_numbers_for_programs(tmp_path, capsys):
    rows = list(csv.DictReader(io.StringIO(way_csv(watched()))))
    assert len(rows) == 9
    last = rows[-1]
    assert (last["step"], last["metric"], last["unit"], float(last["value"])) == ("100", "choice accuracy", "%", 60.0)
    assert (float(rows[-3]["change"]), float(rows[-3]["change error"])) == (0.25, 0.01)
    assert rows[0]["change"] == ""
    assert way_markdown(way(BENT)).splitlines()[0].startswith("| scale | held-out loss | divergence |")
    write_forgetting(watched(marks=[]), tmp_path)
    for flag, begin in (("--csv", "step,metric"), ("--markdown", "| step |"), ("--json", "{")):
        assert cli.main(["report", str(tmp_path), flag]) == 0
        assert capsys.readouterr().out.startswith(begin)


@pytest.mark.parametrize(
    ("record", "figures", "pictures"),
    [
        (watched(), ["forgetting", "loss"], 3),
        (way(BENT), ["forgetting", "way"], 5),
        (watched(marks=[]), [], 0),
    ],
    ids=["steps", "way", "base alone"],
)
def test_report_draws_page_and_figures(tmp_path, capsys, record, figures, pictures):
    write_forgetting(record, tmp_path)
    assert cli.main(["report", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Result: ")
    assert shown.endswith(f"Report: {tmp_path / 'report.html'}\n")
    page = (tmp_path / "report.html").read_text()
    assert way_outcome(record) in page
    assert sorted(file.stem for file in (tmp_path / "plots").glob("*.png")) == figures
    assert page.count("<picture>") == pictures
    assert page.count('<tr><th scope="row">') == (len(record.marks) + 1 if record.marks else 0)
    assert page.count("<small>knee</small>") == (record.knee is not None)


def test_training_that_was_watched_has_both_in_one_report(tmp_path, capsys):
    training = Training(
        base="tiny", data="rows.jsonl", method="mofo", label="MoFO", settings={"mofo": {}}, arguments={}, steps=100,
        planned_steps=100, rows=24, epochs=1.0, tokens=99, versions={"mofo": "0.1.0"},
    )  # fmt: skip
    write_training(training, [LogEntry(step=10, loss=2.5), LogEntry(step=100, loss=1.25)], tmp_path)
    write_forgetting(watched(), tmp_path)
    assert cli.main(["report", str(tmp_path)]) == 0
    assert "After step 100, tiny moved away from the base on divergence" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "Forgetting along the training" in page
    assert "The course of the training" in page
    assert page.count("<picture>") == 3


def test_watched_training_is_drawn_beside_a_comparison(tmp_path, capsys):
    comparison, training, milder = (tmp_path / name for name in ("comparison", "my training", "milder"))
    write_results(comparison, path_results({("adamw", 1e-4, 0): [(2.0, 0.1), (1.5, 0.2)]}))
    for folder, record in ((training, watched()), (milder, way(BENT))):
        folder.mkdir()
        write_forgetting(record, folder)
    assert cli.main(["report", str(comparison), str(training), str(milder)]) == 0
    page = (comparison / "report.html").read_text()
    assert "Beside other trainings: divergence" in page
    assert (comparison / "plots" / "watched.png").stat().st_size > 10_000
    assert (training / "report.html").exists()
    assert capsys.readouterr().out.count("Report: ") == 3


def test_panels_beside_a_comparison_are_the_probes_that_both_have():
    comparison = make_comparison()
    found = beside(comparison, {"one": watched(), "other": watched(metrics=[TEXT]), "none": watched(marks=[])})
    assert [panel.title for panel in found.plot.panels] == ["text loss", "divergence"]
    axes = Figure().subplots()
    found.plot.panels[0].draw(axes)
    labels = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert labels[-2:] == ["one", "other"]
    errors = [bars.lines[0].get_xydata().tolist() for bars in axes.containers]
    assert errors[0] == pytest.approx(np.array([[0, 0], [50, 0.01], [100, 0.03]]))
    for others in ({}, {"none": watched(marks=[])}, {"choice": watched(metrics=[CHOICE])}):
        assert beside(comparison, others) is None


@pytest.mark.parametrize("content", ["[]", "{", json.dumps({"schema": 7})])
def test_damaged_file_is_one_sentence(tmp_path, capsys, content):
    (tmp_path / FILE_NAME).write_text(content)
    assert cli.main(["report", str(tmp_path)]) == 2
    printed_error = capsys.readouterr().err
    assert "forgetting.json is damaged or of another version" in printed_error
    assert printed_error.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]


def test_record_is_read_back(tmp_path):
    write_forgetting(way(BENT), tmp_path)
    assert load_forgetting(tmp_path) == way(BENT)

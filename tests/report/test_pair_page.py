"""The page and the files of two models that were measured side by side."""

import csv
import io
import json
import random
from html.parser import HTMLParser

import pytest

from mofo.errors import UserError
from mofo.measure.bounds import judge, parse_bound
from mofo.measure.mean import Mean
from mofo.measure.measured import Measured
from mofo.pair import GateResults, ModelResults, PairResults, Question
from mofo.report.pair_files import check_pair_files, write_pair_files
from mofo.report.pair_page import pair_page
from mofo.results import FinalDistance, Metric


def metric(source, name, label, **how):
    return Metric(kind="forgotten", source=source, name=name, label=label, description=f"what {label} is", **how)


SHARE = {"unit": "%", "scale": 100, "higher_is_better": True}
METRICS = [
    Metric(kind="learned", source="task", name="loss", label="held-out loss", unit="nats per token"),
    metric("text", "loss", "text loss", unit="nats per token"),
    metric("divergence", "kl", "divergence", unit="nats per token"),
    metric("choice", "accuracy", "choice accuracy", headline=False, **SHARE),
    metric("choice", "log_probability", "choice log-probability", unit="nats", higher_is_better=True),
    metric("arc_easy", "acc_norm", "arc_easy", **SHARE),
    metric("arc_easy", "acc", "arc_easy acc", headline=False, **SHARE),
    metric("winogrande", "acc", "winogrande", **SHARE),
]


def changed(before, after, texts="question {} with <b>no</b> tags?"):
    """The questions that one of two models has right, as `measure_pair` keeps them."""
    return {
        place: Question(
            question=texts.format(place), expected="right", base=f"base says {place}", tuned=f"tuned, {place}"
        )
        for place, (old, new) in enumerate(zip(before, after, strict=True))
        if old != new
    }


def make_pair():
    """A pair with every outcome: learned, forgotten beyond chance, unchanged, too few questions."""
    draw = random.Random(0)
    rows = [draw.gauss(2.1, 0.3) for _ in range(100)]
    right = [float(n < 60) for n in range(100)]
    wrong = [float(20 <= n < 63) for n in range(100)]
    few = [float(n % 2) for n in range(20)]
    units = {
        "task": {"loss": (rows, [row - 0.7 + draw.gauss(0, 0.1) for row in rows])},
        "text": {"loss": (rows, [row + draw.gauss(0, 0.1) for row in rows])},
        "divergence": {"kl": ([0.0] * 100, [0.12 + draw.gauss(0, 0.03) for _ in rows])},
        "choice": {"accuracy": (right, right), "log_probability": (rows, [row + 0.02 for row in rows])},
        "arc_easy": {"acc_norm": (right, wrong), "acc": (right, [*wrong[:-1], 1.0])},
        "winogrande": {"acc": (few, few)},
    }
    models = [
        Measured(
            {"task": {name: Mean(values[role]) for name, values in units["task"].items()}},
            {
                source: {name: Mean(values[role]) for name, values in numbers.items()}
                for source, numbers in units.items()
                if source != "task"
            },
        )
        for role in (0, 1)
    ]
    points = [models[0].point(None), models[1].point(models[0])]
    base, tuned = (
        ModelResults(
            model=name, sha256=digest * 32, learned=point.learned["task"], forgotten=point.forgotten,
            errors=point.errors, change_errors=point.change_errors, paired=point.paired,
        )
        for name, digest, point in zip(("smollm2-135m", "runs/tuned"), ("0a", "f1"), points, strict=True)
    )  # fmt: skip
    return PairResults(
        base=base, tuned=tuned, distance=FinalDistance(l2=3.9, moved=0.44, relative=0.004), metrics=METRICS,
        questions={"arc_easy": {n: changed(*units["arc_easy"][n]) for n in ("acc_norm", "acc")}},
        data="held-out.jsonl", rows={"held-out rows cut at max_length": 2}, notes=["Both lost 2 tokens."],
        precision="float32", versions={"mofo": "0.1.0"},
    )  # fmt: skip


def make_gate():
    results = make_pair()
    findings = judge([parse_bound(text) for text in ("divergence<0.05", "winogrande>-0.02", "text<0.5")], results)
    return GateResults(verdict="do not ship", sentence="Do not ship: so it is.", findings=findings, results=results)


class Rows(HTMLParser):
    """The cells of each row of the tables of a page, and all of its text."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.text, self.tags, self.links = [], "", set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "srcset"}]
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"} and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag == "table":
            self.rows.append([])

    def handle_data(self, data):
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()

    def row(self, begin):
        return next(row for row in self.rows if row and row[0].lstrip("▲▼●◆✖✔\ufe0e").startswith(begin))


@pytest.fixture(scope="module")
def page():
    return Rows(pair_page(make_pair()))


def test_page_says_what_was_compared(page):
    for text in (
        "runs/tuned",
        "smollm2-135m",
        "0a" * 32,
        "f1" * 32,
        "held-out.jsonl; 2 held-out rows cut",
        "Both lost",
    ):
        assert text in page.text
    assert "tuned, measured against smollm2-135m" in page.text


@pytest.mark.parametrize(
    ("number", "verdict"),
    [
        ("held-out loss", "better"),
        ("text loss", "no change beyond noise"),
        ("divergence", "worse"),
        ("arc_easy", "worse"),
        ("winogrande", "insufficient evidence"),
    ],
)
def test_each_number_has_before_after_change_interval_and_verdict(page, number, verdict):
    row = page.row(number)
    assert row[-1] == verdict
    assert len(row) == 6
    assert all(cell not in ("", "–") for cell in row)


def test_change_is_positive_where_it_is_worse_and_has_its_interval(page):
    label, base, tuned, change, interval, _ = page.row("arc_easy")
    assert label.endswith("%")
    assert (base[:5], tuned[:5], change) == ("60.00", "43.00", "+17.0")
    low, high = (float(end) for end in interval.split(" to "))
    paired = METRICS[5].paired(make_pair().tuned.point)
    assert (low, high) == pytest.approx((-paired.high * 100, -paired.low * 100), abs=0.06)
    assert page.row("held-out loss")[3].startswith("−0.699")


def test_numbers_of_questions_are_counted_task_by_task(page):
    row = next(row for row in page.rows if row and row[0].endswith("arc_easy%") and len(row) == 10)
    assert row[5:8] == ["20", "3", "100"]
    assert row[8] == "below 0.001"
    assert not [row for row in page.rows if "text loss" in row[:1] and len(row) == 10]


def test_answers_behind_a_score_are_quoted_once_and_escaped(page):
    assert page.text.count("lost: question 0 with <b>no</b> tags?") == 1
    assert "b" not in page.tags
    for text in ("base says 0", "tuned, 0", "20 questions lost and 3 won; of each, at most 10"):
        assert text in page.text
    assert "question 10 with" not in page.text
    assert "Answers behind arc_easy acc" in page.text, "its last question was changed by acc alone"
    assert "20 questions lost and 4 won" in page.text


def test_each_number_is_explained_in_a_line(page):
    for described in METRICS[1:]:
        assert f"{described.label}: {described.description}." in page.text


def test_page_needs_no_other_file(page):
    assert page.links
    assert all(link.startswith("data:") for link in page.links)
    assert "script" not in page.tags


def test_page_of_a_gate_has_each_bound_and_the_sentence():
    gate = make_gate()
    page = Rows(pair_page(gate.results, gate))
    assert "What to do. Do not ship: so it is." in page.text
    assert [page.row(f.bound)[-1] for f in gate.findings] == ["broken", "too little evidence", "kept"]
    assert page.row("divergence<0.05")[1].startswith("+0.12")


def test_page_of_a_model_that_diverged_and_of_one_unit_is_drawn():
    nan = float("nan")
    base, tuned = (
        ModelResults(learned={}, forgotten={"text": {"loss": loss}, "divergence": {"kl": kl}})
        for loss, kl in ((2.0, 0.0), (nan, 0.5))
    )
    found = PairResults(base=base, tuned=tuned, distance=FinalDistance(l2=nan, moved=1.0), metrics=METRICS[1:3])
    page = Rows(pair_page(found))
    assert page.row("text loss")[2:] == ["–", "–", "–", "not finite: diverged"]
    assert page.row("divergence")[3:5] == ["+0.500", "–"]


def test_files_are_written_by_their_endings(tmp_path):
    results = make_pair()
    files = [tmp_path / f"pair{ending}" for ending in (".json", ".csv", ".md", ".html")]
    check_pair_files(files)
    write_pair_files(results, files)
    assert PairResults.model_validate_json(files[0].read_text()) == results
    rows = list(csv.DictReader(io.StringIO(files[1].read_text())))
    assert [row["metric"] for row in rows] == [m.label for m in METRICS]
    assert files[2].read_text().startswith("| metric | base |")
    assert files[3].read_text().startswith("<!DOCTYPE html>")


def test_files_of_a_gate_have_every_bound(tmp_path):
    gate = make_gate()
    files = [tmp_path / f"gate{ending}" for ending in (".json", ".csv", ".md", ".html")]
    write_pair_files(gate, files)
    assert json.loads(files[0].read_text())["sentence"] == gate.sentence
    rows = list(csv.DictReader(io.StringIO(files[1].read_text())))
    assert [(row["bound"], row["outcome"]) for row in rows] == [
        ("divergence<0.05", "broken"), ("winogrande>-0.02", "too little evidence"), ("text<0.5", "kept"),
    ]  # fmt: skip
    assert float(rows[0]["change"]) == pytest.approx(gate.findings[0].change)
    assert (rows[1]["units"], rows[1]["lost"], rows[0]["lost"]) == ("20", "0", "")
    lines = files[2].read_text().splitlines()
    assert lines[0] == gate.sentence
    assert lines[4].startswith("| divergence<0.05 | divergence | +0.12")
    assert any(line.startswith("| arc_easy, % | 60.0") for line in lines)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("page.pdf", r"page\.pdf says no format: expected a name that ends in \.json, \.csv, \.md or \.html"),
        ("page", r"page says no format"),
        ("none/page.html", r"The folder .*none of --output .*page\.html does not exist: make it first"),
        ("there.html", r"there\.html exists: give another --output, or remove it first"),
        ("there.html/page.html", r"The folder .*there\.html of --output .* does not exist"),
    ],
)
def test_file_that_cannot_be_written_is_refused(tmp_path, name, sentence):
    (tmp_path / "there.html").write_text("kept")
    with pytest.raises(UserError, match=sentence):
        check_pair_files([tmp_path / "fine.csv", tmp_path / name])
    assert [path.name for path in tmp_path.iterdir()] == ["there.html"]

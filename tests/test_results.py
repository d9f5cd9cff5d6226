"""The types of results.json: writing, reading, refusing, documenting."""

import json
import math
from pathlib import Path

import pytest

from mofo.errors import UserError
from mofo.results import (
    FILE_NAME,
    Distance,
    Metric,
    Point,
    Results,
    TrainingStep,
    load_results,
    write_results,
)
from mofo.results_page import document, example

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def minimal(**changes):
    """The JSON of the smallest valid file, with changes."""
    loss = {"kind": "learned", "source": "sums", "name": "loss", "label": "held-out loss"}
    point = {"step": 0, "learned": {"sums": {"loss": 2.0}}, "forgotten": {}}
    whole = {
        "schema": 2,
        "model": "m",
        "tasks": [],
        "recipe": {},
        "reference": None,
        "methods": {"a": {"label": "A", "parts": []}},
    }
    return json.dumps(whole | {"settings": {}, "metrics": [loss], "base": point, "runs": []} | changes)


def run(**changes):
    return {"name": "a-s0", "method": "a", "settings": {}, "seed": 0, "points": []} | changes


def test_results_come_back_as_they_were_written(tmp_path):
    write_results(example(), tmp_path)
    assert load_results(tmp_path) == example()
    assert json.loads((tmp_path / FILE_NAME).read_text())["schema"] == 2


def test_results_keep_every_digit(tmp_path):
    results = example()
    number = 0.1 + 0.2
    results.runs[0].points[0].learned["gsm_symbolic"]["loss"] = number
    write_results(results, tmp_path)
    assert load_results(tmp_path).runs[0].points[0].learned["gsm_symbolic"]["loss"] == number


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_numbers_that_are_not_finite_become_null(value):
    point = Point(step=1, learned={"sums": {"loss": value}}, forgotten={"text": {"loss": value}})
    assert point.learned["sums"]["loss"] is point.forgotten["text"]["loss"] is None
    step = TrainingStep(step=1, loss=value)
    assert json.loads(step.model_dump_json()) == {"step": 1, "loss": None, "learning_rate": None}
    assert Distance(l2=value, moved=1.0).l2 is None


@pytest.mark.parametrize("written", ["NaN", "Infinity", "null"])
def test_numbers_that_are_not_finite_are_read_as_null(tmp_path, written):
    text = minimal(runs=[run(points=[{"step": 1, "learned": {"sums": {"loss": 7.25}}, "forgotten": {}}])])
    (tmp_path / FILE_NAME).write_text(text.replace("7.25", written))
    assert load_results(tmp_path).runs[0].points[0].learned == {"sums": {"loss": None}}


def metric(kind="forgotten", **changes):
    return Metric(**{"kind": kind, "source": "probe", "name": "number", "label": "number"} | changes)


def point(number, distance=None):
    return Point(
        step=1, learned={"probe": {"number": number}}, forgotten={"probe": {"number": number}}, distance=distance
    )


@pytest.mark.parametrize(
    ("before", "after", "higher_is_better", "expected"),
    [
        (3.0, 3.5, False, 0.5),  # a loss
        (0.0, 0.2, False, 0.2),  # a divergence
        (0.6, 0.5, True, 0.1),  # an accuracy
        (-1.0, -1.5, True, 0.5),  # a log-probability
        (-1.0, -0.5, True, -0.5),
    ],
)
@pytest.mark.parametrize("kind", ["forgotten", "learned"])
def test_metric_change_is_positive_when_worse(kind, before, after, higher_is_better, expected):
    change = metric(kind, higher_is_better=higher_is_better).change(point(before), point(after))
    assert change == pytest.approx(expected)


@pytest.mark.parametrize("after", [None, float("nan"), float("inf")])
def test_metric_change_is_none_when_not_measured_or_not_finite(after):
    assert metric().change(point(3.0), point(after)) is None
    assert metric().change(point(after), point(3.0)) is None
    assert metric(source="another").change(point(3.0), point(3.0)) is None


def test_metric_change_of_a_distance_is_the_distance():
    moved = metric("distance", source="weights", name="moved")
    assert moved.change(point(1.0), point(1.0, Distance(l2=2.0, moved=0.5))) == 0.5
    assert moved.change(point(1.0), point(1.0)) is None
    assert metric("distance", name="volume").of(point(1.0, Distance(l2=2.0, moved=0.5))) is None


def test_learning_is_the_first_headline_that_is_learned():
    def learned(name, **changes):
        return metric("learned", name=name, **changes)

    metrics = [
        metric(),
        learned("detail", headline=False),
        learned("loss"),
        learned("other"),
    ]
    assert example().model_copy(update={"metrics": metrics}).learning.name == "loss"
    grade = learned("grade", higher_is_better=True)
    assert example().model_copy(update={"metrics": [grade, *metrics]}).learning.name == "grade"


def test_load_names_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"results\.json does not exist: give the output folder"):
        load_results(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ('{"schema": 2, "runs": [', "is not JSON"),
        ("[]", r"is damaged: the whole is \[\], expected a mapping"),
        ("{}", "has schema None"),
        ('{"schema": 3}', "has schema 3, and this version of mofo reads schema 2"),
        ('{"schema": 2}', "is damaged: model is missing"),
        (minimal(extra=1), "is damaged: extra is unknown"),
        (minimal(base={"step": 0, "forgotten": {}}), r"base\.learned is missing"),
        (minimal(base={"step": 0, "learned": {}, "forgotten": {}}), "no finite held-out loss of the base"),
        (
            minimal(base={"step": 0, "learned": {"sums": {"loss": math.nan}}, "forgotten": {}}),
            "no finite held-out loss",
        ),
        (minimal(runs=[{}]), r"runs\.name is missing"),
        (minimal(runs=[run(seed="x")]), r"runs\.seed is 'x', expected a whole number"),
        (minimal(runs=[run(), run()]), "runs has two of the name 'a-s0'"),
        (minimal(runs=[run(method="b")]), "methods lacks 'b', the method of the run 'a-s0'"),
        (minimal(runs=[run(settings={"lr": 1})]), "settings lacks 'lr', a setting of the run 'a-s0'"),
        (minimal(metrics=[]), "metrics has no headline that is learned"),
    ],
)
def test_load_refuses_damaged_files_with_the_reason(tmp_path, content, message):
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(UserError, match=message):
        load_results(tmp_path)


def test_load_refuses_schema_1_with_one_sentence(tmp_path):
    (tmp_path / FILE_NAME).write_text('{"schema": 1, "recipe": {}, "base": {}, "runs": []}')
    with pytest.raises(UserError) as refused:
        load_results(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path / FILE_NAME} has schema 1, and this version of mofo reads schema 2: make the comparison again, or "
        "draw it with the version of mofo that wrote it."
    )


def test_load_refuses_bytes_that_are_no_text(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not JSON"):
        load_results(tmp_path)


def test_load_refuses_a_folder_in_place_of_the_file(tmp_path):
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load_results(tmp_path)


def test_load_accepts_the_smallest_file(tmp_path):
    (tmp_path / FILE_NAME).write_text(minimal(runs=[run()]))
    results = load_results(tmp_path)
    assert (results.complete, results.plan, results.runs[0].seconds) == (False, None, None)


def test_documented_page_is_the_one_that_the_types_give():
    assert PAGE.read_text(encoding="utf-8") == document(), "run `make docs`"


def test_documented_example_is_valid():
    text = PAGE.read_text(encoding="utf-8")
    assert Results.model_validate_json(text.split("```json\n")[1].split("```")[0]) == example()


def test_documented_page_has_every_class_and_field():
    schema = Results.model_json_schema()
    text = PAGE.read_text(encoding="utf-8")
    for name, record in [("Results", schema), *schema["$defs"].items()]:
        section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert all(f"| `{field}` |" in section for field in record["properties"])


@pytest.mark.parametrize(
    "name", sorted(str(path.parent.relative_to(EXPERIMENTS)) for path in EXPERIMENTS.glob(f"**/results/{FILE_NAME}"))
)
def test_committed_results_can_be_read(name):
    assert load_results(EXPERIMENTS / name).complete

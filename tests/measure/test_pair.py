import copy
import json

import pytest
import torch

from mofo.errors import UserError
from mofo.measure import learned_metrics
from mofo.measure.mean import Mean
from mofo.measure.measured import Measured
from mofo.measure.pair import measure_pair
from mofo.measure.progress import watched
from mofo.pair import ModelResults, PairResults
from mofo.report.pair import pair_csv, pair_legend, pair_markdown, pair_table, pair_verdict
from mofo.results import Errors, FinalDistance, Metric


@pytest.fixture(scope="module")
def folders(tmp_path_factory, base, tokenizer):
    """The folders of a base and of a model that was tuned from it."""
    folder = tmp_path_factory.mktemp("pair")
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned.model.norm.weight += 0.1
    for name, model in (("base", base), ("tuned", tuned)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "sums.jsonl").write_text(json.dumps({"question": "what is blue?", "answer": "the sky"}) + "\n")
    return folder


def shown(results):
    return [list(column.cells) for column in pair_table(results).columns]


def test_measure_pair_measures_both_models(folders):
    results = measure_pair(
        str(folders / "base"), str(folders / "tuned"), probes=["text", "divergence"], data=str(folders / "sums.jsonl")
    )
    assert set(results.base.forgotten) == {"text", "divergence"}
    assert results.base.forgotten["divergence"] == {"kl": 0}
    assert results.tuned.forgotten["divergence"]["kl"] > 0
    assert results.tuned.learned["loss"] != results.base.learned["loss"]
    assert {layer.layer for layer in results.distance.layers if layer.moved} == {"norm"}
    assert PairResults.model_validate_json(results.model_dump_json()) == results
    labels, before, after, change = shown(results)
    assert labels == [
        "held-out loss",
        "text loss",
        "divergence",
        "L2 distance",
        "L2 distance / L2 of the base",
        "entries moved",
    ]
    numbers = [float(column[1].split(" ±")[0]) for column in (before, after, change)]
    assert numbers[2] == pytest.approx(numbers[1] - numbers[0], abs=2e-4)
    assert " ±" in after[1]
    assert results.tuned.change_errors.forgotten["text"]["loss"] > 0
    assert "divergence" in pair_verdict(results)
    assert len(pair_legend(results)) == 3


def test_measure_pair_of_a_model_with_itself_finds_no_change(folders):
    results = measure_pair(str(folders / "base"), str(folders / "base"), probes=["text"])
    assert results.base.forgotten == results.tuned.forgotten
    assert results.base.learned == {}
    assert pair_verdict(results) == "The tuned model shows no change beyond noise on text loss."
    assert results.distance.l2 == 0


def test_measure_pair_refuses_no_rows(folders):
    with pytest.raises(UserError, match="--rows is 0"):
        measure_pair("none", "none", probes=[], rows=0)


def test_pair_table_has_a_dash_for_what_is_not_finite():
    nan = float("nan")
    results = PairResults.model_validate(
        {
            "base": {"learned": {"loss": 2.0}, "forgotten": {}},
            "tuned": {"learned": {"loss": nan}, "forgotten": {}},
            "distance": FinalDistance(l2=nan, moved=1.0, relative=nan),
            "metrics": learned_metrics("task")[:1],
        }
    )
    assert pair_verdict(results) == "The tuned model has no finite held-out loss: it diverged."
    assert shown(results) == [
        ["held-out loss", "L2 distance", "L2 distance / L2 of the base", "entries moved"],
        ["2.0000", "", "", ""],
        ["–", "–", "–", "100.00%"],
        ["–", "", "", ""],
    ]


def test_pair_has_the_sign_of_a_comparison_in_which_positive_is_worse():
    def model(accuracy, error=0.0):
        forgotten = {"quiz": {"accuracy": accuracy}}
        return ModelResults(
            learned={}, forgotten=forgotten, change_errors=Errors(forgotten={"quiz": {"accuracy": error}})
        )

    metric = Metric(
        kind="forgotten", source="quiz", name="accuracy", label="quiz", unit="%", scale=100, higher_is_better=True
    )

    def pair(after, error):
        distance = FinalDistance(l2=1.0, moved=1.0, relative=1.0)
        return PairResults(base=model(0.5), tuned=model(after, error), distance=distance, metrics=[metric])

    assert [column[0] for column in shown(pair(0.6, 0.01))] == ["quiz, %", "50.0000", "60.0000", "-10.0000 ±1.0000"]
    assert pair_verdict(pair(0.6, 0.01)) == "The tuned model gained on quiz."
    assert pair_verdict(pair(0.4, 0.01)) == "The tuned model forgot quiz."
    assert pair_verdict(pair(0.4, 0.06)) == "The tuned model shows no change beyond noise on quiz."


def test_measure_pair_reads_columns_and_counts_rows_that_are_cut(folders, tmp_path):
    rows = [{"Q": "what is blue?", "A": answer} for answer in ("the sky", "the sea, and the sky above it")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"probes": [], "data": str(tmp_path / "rows.jsonl"), "columns": {"question": "Q", "answer": "A"}}
    whole = measure_pair(str(folders / "base"), str(folders / "base"), **options)
    assert whole.rows == {}
    cut = measure_pair(str(folders / "base"), str(folders / "base"), max_length=30, **options)
    assert cut.rows == {"held-out rows cut at max_length": 1}
    assert cut.base.learned["loss"] != whole.base.learned["loss"]
    with pytest.raises(
        UserError, match=r"No row of .*rows\.jsonl has a completion within 3 tokens: raise --max-length"
    ):
        measure_pair(str(folders / "base"), str(folders / "base"), max_length=3, **options)
    with pytest.raises(UserError, match=r"has the fields \['A', 'Q'\]"):
        measure_pair(str(folders / "base"), str(folders / "base"), **options | {"columns": None})


def test_measure_pair_refuses_rows_with_tokens_that_the_tuned_model_lost(folders, base, tokenizer, tmp_path):
    smaller = copy.deepcopy(base)
    smaller.resize_token_embeddings(100)
    smaller.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="its vocabulary is smaller"):
        measure_pair(str(folders / "base"), str(tmp_path), probes=[], data=str(folders / "sums.jsonl"))


def test_measure_pair_reports_each_stage(folders):
    seen = []
    with watched(lambda what, done, total: seen.append((what, done, total)), every=0.0):
        measure_pair(str(folders / "base"), str(folders / "tuned"), probes=["text"], data=str(folders / "sums.jsonl"))
    stages = ["loading the models", "distance", "preparing the probes"]
    stages += [f"{what}, {role}" for role in ("base", "tuned") for what in ("held-out loss", "text")]
    assert [what for what, done, total in seen if (done, total) == (0, 1)] == stages
    assert [what for what, done, total in seen if (done, total) == (1, 1)] == stages


def test_measure_pair_refuses_before_it_loads_anything(folders, monkeypatch):
    monkeypatch.setattr("mofo.models.pairing.load_model", lambda *_, **__: pytest.fail("loaded"))
    base, tuned = str(folders / "base"), str(folders / "tuned")
    for changed in (
        {"probes": ["tekst"]},
        {"rows": 0},
        {"data": "none.jsonl"},
        {"tuned": str(folders / "none")},
        {"base": None},
        {"answers": folders / "sums.jsonl" / "read"},
    ):
        options = {"base": base, "tuned": tuned, "probes": ["text"], "data": str(folders / "sums.jsonl")} | changed
        with pytest.raises(UserError):
            measure_pair(options.pop("base"), options.pop("tuned"), **options)


def quiz(before, after):
    """Results of a quiz: which questions each model has right."""
    base, tuned = (Measured({}, {"quiz": {"accuracy": Mean(list(map(float, right)))}}) for right in (before, after))
    points = [base.point(None), tuned.point(base)]
    models = [
        ModelResults(learned={}, forgotten=p.forgotten, errors=p.errors, change_errors=p.change_errors, paired=p.paired)
        for p in points
    ]
    metric = Metric(
        kind="forgotten", source="quiz", name="accuracy", label="the quiz", unit="%", scale=100, higher_is_better=True
    )
    distance = FinalDistance(l2=1.0, moved=1.0, relative=1.0)
    return PairResults(base=models[0], tuned=models[1], distance=distance, metrics=[metric])


def test_pair_of_questions_shows_interval_and_what_was_lost_and_won():
    lost = quiz([1] * 30 + [0] * 10, [1] * 18 + [0] * 12 + [1] + [0] * 9)
    assert pair_verdict(lost) == "The tuned model forgot the quiz."
    assert [column[0] for column in shown(lost)][4:] == ["+10.63 to +42.02", "12", "1"]
    assert pair_markdown(lost).splitlines()[2].endswith("| +10.63 to +42.02 | 12 | 1 |")
    row = dict(zip(*(line.split(",") for line in pair_csv(lost).splitlines()), strict=True))
    assert (row["units"], row["lost"], row["won"], row["outcome"]) == ("40", "12", "1", "worse")
    assert float(row["low"]) == pytest.approx(10.63, abs=0.01)


def test_pair_of_too_few_questions_is_insufficient_evidence():
    assert pair_verdict(quiz([1, 1, 0, 0] * 3, [1, 1, 0, 0] * 3)) == (
        "Insufficient evidence on the quiz: nothing beyond chance, but a loss of more than 5% of the questions is not "
        "ruled out."
    )
    assert pair_verdict(quiz([1, 0] * 300, [1, 0] * 300)) == "The tuned model shows no change beyond noise on the quiz."

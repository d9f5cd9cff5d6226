"""`mofo gate` and the bounds that it shares with `mofo measure --fail-on`."""

import json
import shutil
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mofo import cli
from mofo.errors import UserError
from mofo.measure.bounds import Bound, bounded_metrics, check_bounds, judge, parse_bound
from mofo.measure.gate import measure_gate
from mofo.measure.mean import Mean
from mofo.measure.measured import Measured
from mofo.pair import ModelResults, PairResults
from mofo.results import FinalDistance, Metric
from reference.folders import saved

QUIZ = Metric(
    kind="forgotten", source="quiz", name="accuracy", label="the quiz", unit="%", scale=100, higher_is_better=True
)
SURENESS = QUIZ.model_copy(update={"name": "p", "label": "sureness", "unit": "", "scale": 1, "headline": False})
STORY = Metric(kind="forgotten", source="story", name="loss", label="story loss", unit="nats per token")


def pair(before, after, metric=QUIZ):
    """Results of one metric, with its units in both models."""
    base, tuned = (Measured({}, {metric.source: {metric.name: Mean(list(map(float, m)))}}) for m in (before, after))
    points = [base.point(None), tuned.point(base)]
    models = [
        ModelResults(learned={}, forgotten=p.forgotten, errors=p.errors, change_errors=p.change_errors, paired=p.paired)
        for p in points
    ]
    distance = FinalDistance(l2=1.0, moved=1.0, relative=1.0)
    return PairResults(base=models[0], tuned=models[1], distance=distance, metrics=[metric])


def outcomes(bound, results):
    return [finding.outcome for finding in judge([parse_bound(bound)], results)]


def rising(by, spread=0.01):
    """A loss over twenty windows that rises by an amount, more in some than in others."""
    before = [1.0 + 0.1 * number for number in range(20)]
    return pair(before, [loss + by + spread * (-1) ** n for n, loss in enumerate(before)], STORY)


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("divergence", Bound("divergence")),
        ("divergence<0.05", Bound("divergence", "<", 0.05)),
        ("harness:mmlu>-0.02", Bound("harness:mmlu", ">", -0.02)),
        ("text loss < 1e-3", Bound("text loss", "<", 0.001)),
        ("choice:my questions.jsonl>-.5", Bound("choice:my questions.jsonl", ">", -0.5)),
    ],
)
def test_bound_is_read(text, bound):
    assert parse_bound(text) == bound
    assert parse_bound(str(bound)) == bound


@pytest.mark.parametrize("text", ["", "<0.05", "text<", "text<=0.1", "text<nan", "text>inf", "text<0.1%", "text<a<b"])
def test_what_is_no_bound_is_refused(text):
    with pytest.raises(UserError, match="is no bound: expected NAME, NAME<NUMBER or NAME>NUMBER"):
        parse_bound(text)


@given(st.text(min_size=1).filter(lambda name: not {"<", ">"} & set(name) and name == name.strip()), st.floats(-9, 9))
def test_bound_is_read_back(name, limit):
    bound = Bound(name, "<", float(f"{limit:g}"))
    if "\n" not in name:
        assert parse_bound(str(bound)) == bound


def test_limit_is_decided_by_the_interval_of_the_change():
    results = rising(0.1)
    (finding,) = judge([parse_bound("story<0.2")], results)
    paired = STORY.paired(results.tuned.point)
    assert (finding.low, finding.high) == (paired.low, paired.high)
    assert finding.change == pytest.approx(0.1)
    assert finding.low < 0.1 < finding.high
    assert outcomes("story<0.2", results) == ["kept"]
    assert outcomes("story<0.05", results) == ["broken"]
    assert outcomes("story<0.1", results) == ["unsure"]
    assert outcomes("story<-0.1", rising(-0.2)) == ["kept"], "a loss may be demanded to fall"


def test_limit_of_what_is_better_when_higher_is_on_the_other_side():
    lost = pair([1] * 30 + [0] * 10, [1] * 18 + [0] * 12 + [1] + [0] * 9)
    (finding,) = judge([parse_bound("quiz>-0.5")], lost)
    assert (finding.change, finding.outcome) == (pytest.approx(-11 / 40), "kept")
    assert finding.low == pytest.approx(-0.4202, abs=1e-4)
    assert outcomes("quiz>-0.1", lost) == ["broken"]
    assert outcomes("quiz>-0.2", lost) == ["unsure"]


def test_few_questions_are_too_little_evidence_even_if_none_was_lost():
    assert outcomes("quiz>-0.02", pair([1, 1, 0, 0] * 3, [1, 1, 0, 0] * 3)) == ["unsure"]
    assert outcomes("quiz>-0.02", pair([1, 0] * 300, [1, 0] * 300)) == ["kept"]


def test_probe_alone_must_not_be_worse_beyond_chance():
    assert outcomes("quiz", pair([1] * 30 + [0] * 10, [0] * 12 + [1] * 18 + [0] * 10)) == ["broken"]
    assert outcomes("quiz", pair([1, 1, 0, 0] * 3, [1, 1, 0, 0] * 3)) == ["unsure"]
    assert outcomes("quiz", pair([1, 0] * 300, [1, 0] * 300)) == ["kept"]
    assert outcomes("story", rising(-0.1)) == ["kept"]


def test_what_has_one_unit_or_is_not_finite_is_not_kept():
    assert outcomes("story<0.5", pair([1.0], [1.1], STORY)) == ["unsure"], "no interval"
    for bound in ("story<0.5", "story"):
        (finding,) = judge([parse_bound(bound)], pair([1.0, 2.0], [1.0, float("nan")], STORY))
        assert (finding.change, finding.outcome) == (None, "broken")


def test_bound_is_on_a_probe_by_any_of_its_names_or_on_a_label():
    metrics = [QUIZ, SURENESS, STORY]
    for name in ("quiz", "harness:quiz", "harness:quiz@40", "the quiz"):
        assert bounded_metrics(Bound(name), metrics) == [QUIZ]
    assert bounded_metrics(Bound("text:texts/story.txt"), metrics) == [STORY]
    assert bounded_metrics(Bound("sureness"), metrics) == [SURENESS]
    with pytest.raises(UserError, match=r"quizz, which is not measured \(did you mean quiz\?\): expected one of quiz,"):
        bounded_metrics(Bound("quizz"), metrics)


@pytest.mark.parametrize(
    ("bound", "sentence"),
    [
        ("quiz<0.02", "the quiz is better when higher, so say how far it may get worse, such as quiz>-0.02"),
        ("story>-0.1", "story loss is better when lower, so say how far it may get worse, such as story<0.05"),
        ("quiz>-2", "it is a share between 0 and 1, of which two points are 0.02"),
    ],
)
def test_bound_that_would_always_hold_is_refused(bound, sentence):
    with pytest.raises(UserError, match=sentence):
        check_bounds([parse_bound(bound)], [QUIZ, STORY])


@pytest.fixture(scope="module")
def tuned(tiny_model, learned_model, tmp_path_factory):
    """The folder of a model that learned the sums; do not write into it."""
    return saved(learned_model, tmp_path_factory.mktemp("tuned"), tiny_model)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("forgotten", "code", "sentence"),
    [
        ("divergence<5", 0, "Ship: held-out loss changed by -"),
        ("divergence<1e-6", 3, "Do not ship: divergence changed by +"),
        ("text<-3", 3, "Do not ship: text loss changed by "),
        ("text:one.txt<9", 4, "Too little evidence: one loss changed by "),
    ],
)
def test_gate_says_one_sentence_and_ends_with_a_code(
    tiny_model, tuned, tiny_data, tmp_path, monkeypatch, capsys, forgotten, code, sentence
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text("a single window, which has no interval")
    assert cli.main(["gate", tiny_model, tuned, "--learned", tiny_data, "--forgotten", forgotten]) == code
    printed = capsys.readouterr().out
    assert printed.startswith(sentence)
    assert printed.count("\n") == 1


@pytest.mark.usefixtures("quick")
def test_gate_demands_learning_beyond_chance(tiny_model, tuned, tiny_data, tmp_path, capsys):
    fallen = measure_gate(tiny_model, tuned, learned=tiny_data, forgotten=[]).findings[0]
    assert fallen.metric == "held-out loss"
    assert fallen.high < 0
    verdicts = {
        f"{tiny_data}<{fallen.high / 2}": "ship",
        f"{tiny_data}<{fallen.change}": "too little evidence",
        f"{tiny_data}<{2 * fallen.low}": "do not ship",
    }
    for learned, verdict in verdicts.items():
        assert measure_gate(tiny_model, tuned, learned=learned, forgotten=[]).verdict == verdict
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps({"question": "what is 1 plus 1?", "answer": "1 plus 1 is 2."}) + "\n")
    assert measure_gate(tiny_model, tuned, learned=str(one), forgotten=[]).verdict == "too little evidence"
    assert cli.main(["gate", tuned, tiny_model, "--learned", tiny_data]) == 3, "the other way round it has unlearned"
    assert "held-out loss changed by +" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_gate_prints_all_that_it_rests_on_as_json(tiny_model, tuned, capsys):
    assert cli.main(["gate", tiny_model, tuned, "--forgotten", "divergence<1e-6,text<9", "--json"]) == 3
    shown = json.loads(capsys.readouterr().out)
    assert shown["verdict"] == "do not ship"
    assert [finding["outcome"] for finding in shown["findings"]] == ["broken", "kept"]
    kl = shown["results"]["tuned"]["forgotten"]["divergence"]["kl"]
    assert shown["findings"][0]["change"] == pytest.approx(kl), "the base's divergence from itself is 0"


@pytest.mark.usefixtures("quick")
def test_gate_leaves_its_evidence_in_files(tiny_model, tuned, tmp_path, capsys):
    files = [tmp_path / f"gate{ending}" for ending in (".html", ".csv", ".md")]
    words = [word for file in files for word in ("--output", str(file))]
    argv = [
        "gate",
        tiny_model,
        tuned,
        "--forgotten",
        "choice,divergence<1e-6",
        "--save-answers",
        str(tmp_path / "said"),
    ]
    assert cli.main([*argv, *words]) == 3
    sentence, *written = capsys.readouterr().out.splitlines()
    assert written == [f"Written: {file}" for file in files]
    assert sentence in unescape(files[0].read_text())
    assert files[1].read_text().splitlines()[2].startswith("divergence<1e-06,broken,divergence,0.0,")
    assert files[2].read_text().startswith(f"{sentence}\n\n| bound |")
    assert len((tmp_path / "said" / "tuned" / "choice.jsonl").read_text().splitlines()) >= 200


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "There is nothing to decide by: give --learned, --forgotten or both"),
        (["--forgotten", "divergense<0.05"], r"Unknown probe `divergense` (did you mean divergence?)"),
        (["--forgotten", "divergence<much"], "is no bound"),
        (["--learned", "{data}>-1"], "would let the loss rise: expected data alone, or how far it must fall"),
        (["--learned", "{data}<0.1"], "would let the loss rise"),
        (["--learned", "none.jsonl<-0.1"], "none.jsonl"),
        (["--forgotten", "divergence", "--max-length", "64", "--rows", "0"], "--rows is 0"),
    ],
)
def test_bad_gate_is_one_sentence_before_anything_is_loaded(
    tiny_model, tuned, tiny_data, monkeypatch, capsys, words, sentence
):
    monkeypatch.setattr("mofo.models.pairing.load_model", lambda *_, **__: pytest.fail("loaded"))
    assert cli.main(["gate", tiny_model, tuned, *(word.format(data=tiny_data) for word in words)]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")


def test_bound_on_the_wrong_side_is_refused_before_anything_is_measured(tiny_model, tuned, monkeypatch, capsys):
    monkeypatch.setattr("mofo.measure.text.TextProbe.measure", lambda *_: pytest.fail("measured"))
    assert cli.main(["gate", tiny_model, tuned, "--forgotten", "text>-0.1"]) == 2
    assert "The bound text>-0.1 is on the wrong side" in capsys.readouterr().err
    argv = ["measure", "--base", tiny_model, "--tuned", tuned, "--probes", "text", "--fail-on", "choice"]
    assert cli.main(argv) == 2
    assert "choice, which is not measured: expected one of text, text loss" in capsys.readouterr().err


def test_gate_refuses_another_base(tiny_model, tuned, tmp_path, capsys):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    assert cli.main(["gate", str(other), tuned, "--forgotten", "text"]) == 2
    assert "are not of one architecture" in capsys.readouterr().err
    assert cli.main(["gate", tuned, "--forgotten", "text"]) == 2
    assert "does not say what it was tuned from" in capsys.readouterr().err

import json
import subprocess
import sys

import pytest
import torch

from mofo.errors import UserError
from mofo.measure import check_probe_specs, make_probes, probe_states
from mofo.measure.kinds import KINDS
from mofo.measure.probe import Probe
from mofo.measure.scoring import inference
from mofo.measure.text import TextProbe
from mofo.results import Metric, Point


@pytest.fixture
def files(tmp_path):
    (tmp_path / "sea.txt").write_text("the old king and the blue sea " * 20)
    row = {"question": "what is blue?", "choices": ["the sky", "a"], "answer": 0}
    (tmp_path / "arc_easy.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


def test_make_probes_of_files_and_divergence(base, tuned, tokenizer, files):
    specs = [f"text:{files / 'sea.txt'}", "divergence", f"choice:{files / 'arc_easy.jsonl'}"]
    check_probe_specs(specs)
    tuned.train()
    probes = make_probes(specs, base=base, tokenizer=tokenizer)
    measured = {probe.name: probe.measure(tuned) for probe in probes}
    assert {name: set(metrics) for name, metrics in measured.items()} == {
        "sea": {"loss"},
        "divergence": {"kl"},
        "arc_easy": {"accuracy", "log_probability"},
    }
    assert tuned.training
    assert measured == {probe.name: probe.measure(tuned) for probe in probes}
    assert make_probes(["divergence"], base=base, tokenizer=tokenizer)[0].measure(base) == {"kl": 0}


def test_make_probes_of_the_default_text_and_questions(base, tokenizer):
    check_probe_specs(["text", "choice"])
    text, choice = make_probes(["text", "choice"], base=base, tokenizer=tokenizer)
    assert (text.name, choice.name) == ("text", "choice")
    assert isinstance(text, TextProbe)
    assert text.measure(base)["loss"] > 1


def test_probe_metrics_describe_what_was_measured(base, tokenizer, files):
    specs = ["text", f"text:{files / 'sea.txt'}", "divergence", "choice"]
    probes = make_probes(specs, base=base, tokenizer=tokenizer)
    point = Point(step=0, learned={}, forgotten={probe.name: probe.measure(base) for probe in probes})
    metrics = [metric for probe in probes for metric in probe.metrics]
    assert sum(map(len, point.forgotten.values())) == len(metrics)
    assert all(metric.of(point) is not None for metric in metrics)
    assert [
        (metric.label, metric.unit, metric.scale, metric.higher_is_better, metric.headline) for metric in metrics
    ] == [
        ("text loss", "nats per token", 1, False, True),
        ("sea loss", "nats per token", 1, False, True),
        ("divergence", "nats per token", 1, False, True),
        ("choice accuracy", "percentage points", 100, True, False),
        ("choice log-probability", "nats", 1, True, True),
    ]


def test_probe_states_make_the_same_probes_again(base, tokenizer):
    def divergence(**how):
        (probe,) = make_probes(["divergence"], base=base, tokenizer=tokenizer, **how)
        return probe

    first = divergence(seed=5)
    kept = json.loads(json.dumps(probe_states([first])))
    assert divergence(seed=6, states=kept).texts == first.texts
    assert divergence(seed=6).texts != first.texts
    assert divergence(seed=5, states={"another": 1}).texts == first.texts


def test_probe_states_are_those_of_probes_that_have_one(base, tokenizer):
    probes = make_probes(["text", "divergence", "choice"], base=base, tokenizer=tokenizer)
    assert set(probe_states(probes)) == {"divergence"}


class WordProbe(Probe):
    """How often the model continues with a word: a new kind, as a contributor would add it."""

    usage = ("word:WORD",)
    numbers = "probability"
    better = "higher"
    cost = "one token"

    def __init__(self, name, tokens):
        super().__init__(name)
        self.tokens = tokens

    @classmethod
    def check(cls, argument, options):
        if not argument.isalpha():
            raise UserError(f"The probe `word` needs a word, not `{argument}`.")

    @classmethod
    def make(cls, name, argument, base, state):
        return cls(name, state or base.tokenizer(argument)["input_ids"])

    def measure(self, model):
        with inference(model):
            logits = model(input_ids=torch.tensor([self.tokens[:1]])).logits[0, -1]
        return {"probability": float(logits.softmax(-1)[self.tokens[-1]])}

    @property
    def metrics(self):
        return [Metric(kind="forgotten", source=self.name, name="probability", label=self.name, higher_is_better=True)]

    def state(self):
        return self.tokens


def test_new_kind_of_probe_is_checked_made_measured_described_and_remembered(base, tokenizer, monkeypatch):
    monkeypatch.setitem(KINDS, "word", WordProbe)
    check_probe_specs(["text", "word:sea"])
    with pytest.raises(UserError, match="needs a word, not `4`"):
        check_probe_specs(["word:4"])
    with pytest.raises(UserError, match=r"choice:FILE\.jsonl, .* or word:WORD"):
        check_probe_specs(["words"])
    (probe,) = make_probes(["word:sea"], base=base, tokenizer=tokenizer)
    measured = probe.measure(base)
    assert 0 < measured["probability"] < 1
    (metric,) = probe.metrics
    assert metric.of(Point(step=0, learned={}, forgotten={probe.name: measured})) == measured["probability"]
    (again,) = make_probes(["word:sea"], base=base, tokenizer=tokenizer, states=probe_states([probe]))
    assert again.measure(base) == measured


@pytest.mark.parametrize("spec", ["texts", "", "text:", "divergence:x.jsonl", "generation", "choice: "])
def test_check_probe_specs_refuses_an_unknown_probe(spec):
    with pytest.raises(UserError, match=r"Unknown probe|cannot be read|does not exist|no file"):
        check_probe_specs([spec])


def test_check_probe_specs_names_the_kind_that_was_meant():
    with pytest.raises(UserError, match=r"Unknown probe `texts` \(did you mean text\?\): expected text, text:FILE.txt"):
        check_probe_specs(["texts"])


def test_check_probe_specs_reads_files_without_a_model(files):
    (files / "empty.txt").write_text(" \n")
    (files / "binary.txt").write_bytes(b"\xff\xfe")
    (files / "rows.jsonl").write_text('{"question": "q", "choices": ["x", "y"], "answer": 0}\n{"question": "q"}\n')
    for spec, message in [
        ("text:none.txt", "cannot be read"),
        (f"text:{files}", "cannot be read"),
        (f"text:{files / 'empty.txt'}", "is empty"),
        (f"text:{files / 'binary.txt'}", "cannot be read"),
        (f"choice:{files / 'rows.jsonl'}", "row 2"),
        ("choice:none.jsonl", "cannot be read"),
    ]:
        with pytest.raises(UserError, match=message):
            check_probe_specs(["divergence", spec])


def test_check_probe_specs_refuses_two_probes_of_one_name(files):
    (files / "text.txt").write_text("the sea")
    with pytest.raises(UserError, match="Two probes would be named `text`"):
        check_probe_specs(["text", f"text:{files / 'text.txt'}"])


def test_measure_imports_no_transformers():
    code = "import sys, mofo.measure; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_measure_distance_is_the_module():
    import mofo.measure

    assert mofo.measure.distance.__name__ == "mofo.measure.distance"


@pytest.mark.model
def test_probes_of_the_embedded_model(smollm2):
    base, tokenizer = smollm2
    with torch.autocast("cpu", torch.bfloat16):
        probes = make_probes(["text", "divergence", "choice"], base=base, tokenizer=tokenizer)
        measured = {probe.name: probe.measure(base) for probe in probes}
    assert 3.5 < measured["text"]["loss"] < 4
    assert measured["divergence"] == {"kl": 0}
    assert measured["choice"]["accuracy"] > 0.5, "clearly above the 0.25 of guessing"
    texts = probe_states(probes)["divergence"]
    distinct = {token for text in texts for token in text}
    assert len(distinct) > 500, "the base's own text is varied"

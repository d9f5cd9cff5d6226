import json
import subprocess
import sys

import pytest
import torch

from mofo.errors import UserError
from mofo.measure import check_probe_specs, make_probes
from mofo.measure.text import TextProbe


@pytest.fixture
def files(tmp_path):
    (tmp_path / "sea.txt").write_text("the old king and the blue sea " * 20)
    row = {"question": "what is blue?", "choices": ["the sky", "a"], "answer": 0}
    (tmp_path / "arc_easy.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


def test_probes_of_files_and_divergence(base, tuned, tokenizer, files):
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


def test_default_text_and_questions(base, tokenizer):
    check_probe_specs(["text", "choice"])
    text, choice = make_probes(["text", "choice"], base=base, tokenizer=tokenizer)
    assert (text.name, choice.name) == ("text", "choice")
    assert isinstance(text, TextProbe)
    assert text.measure(base)["loss"] > 1


def test_written_text_is_used_again(base, tokenizer):
    (first,) = make_probes(["divergence"], base=base, tokenizer=tokenizer, seed=5)
    kept = json.loads(json.dumps(first.written))
    (again,) = make_probes(["divergence"], base=base, tokenizer=tokenizer, seed=6, written=kept)
    assert again.written == first.written
    (other,) = make_probes(["divergence"], base=base, tokenizer=tokenizer, seed=6)
    assert other.written != first.written


@pytest.mark.parametrize("spec", ["texts", "", "text:", "divergence:x.txt", "generation", "choice: "])
def test_unknown_probe_is_refused(spec):
    with pytest.raises(UserError, match=r"unknown probe|cannot be read"):
        check_probe_specs([spec])


def test_files_are_checked_without_a_model(files):
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


def test_two_probes_of_one_name_are_refused(files):
    (files / "text.txt").write_text("the sea")
    with pytest.raises(UserError, match="two probes would be named `text`"):
        check_probe_specs(["text", f"text:{files / 'text.txt'}"])


def test_importing_the_room_loads_no_transformers():
    code = "import sys, mofo.measure; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_real_model(smollm2):
    base, tokenizer = smollm2
    with torch.autocast("cpu", torch.bfloat16):
        probes = make_probes(["text", "divergence", "choice"], base=base, tokenizer=tokenizer)
        measured = {probe.name: probe.measure(base) for probe in probes}
    assert 3.5 < measured["text"]["loss"] < 4
    assert measured["divergence"] == {"kl": 0}
    assert measured["choice"]["accuracy"] > 0.5, "clearly above the 0.25 of guessing"
    written = next(probe for probe in probes if probe.name == "divergence").written
    distinct = {token for text in written for token in text}
    assert len(distinct) > 500, "the base's own text is varied"

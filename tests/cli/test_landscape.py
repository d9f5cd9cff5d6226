"""`mofo landscape`, end to end with tiny models."""

import json
import math
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from mofo import cli
from mofo.files import sole_owner
from mofo.landscape import load_landscape
from mofo.measure import landscape
from mofo.measure.held_out import read_held_out
from mofo.measure.scoring import held_out_loss
from reference import folders, tiny_llama


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny_model):
    """Three models around the base, of which the first has a checkpoint on its way."""
    folder = tmp_path_factory.mktemp("tuned")
    for seed, name in enumerate(("a", "b", "c")):
        folders.saved(folders.moved(tiny_model, by=0.02, share=1, seed=seed), folder / name, tiny_model)
    folders.saved(folders.moved(tiny_model, by=0.01, share=1, seed=0), folder / "a" / "checkpoint-4", tiny_model)
    return folder


@pytest.fixture
def words(tmp_path, tiny_model, tuned, tiny_data):
    """The command line of a landscape with few rows and a short text."""
    text = tmp_path / "short.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 4)
    models = [str(tuned / name) for name in ("a", "b", "c")]
    flags = ["--data", tiny_data, "--rows", "3", "--probes", f"text:{text}", "--resolution", "2"]
    return ["landscape", tiny_model, *models, *flags, "--output", str(tmp_path / "out")]


def test_points_have_the_loss_of_their_weights_and_models_their_place(words, tmp_path, tiny_model, tuned, capsys):
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (tmp_path / "out" / "report.html").read_text().count("checkpoint") > 0
    assert (tmp_path / "out" / "plots" / "landscape.png").read_bytes().startswith(b"\x89PNG")
    base, a, b = (AutoModelForCausalLM.from_pretrained(path) for path in (tiny_model, tuned / "a", tuned / "b"))
    first, second, third = found["ends"]
    assert (first["x"], first["y"], second["off"]) == (1, 0, 0)
    assert third["off"] > 0.9, "random directions are perpendicular to each other"
    (step,) = first["path"]
    assert step["step"] == 4
    assert step["x"] == pytest.approx(0.5, abs=1e-4)
    assert len(found["points"]) == 4

    examples, _ = read_held_out(words[words.index("--data") + 1], tiny_model, rows=3, max_length=1024)
    point = found["points"][1]
    v_second = (point["y"] / second["y"], point["x"] - point["y"] * second["x"] / second["y"])
    with torch.no_grad():
        for p, q, r in zip(base.parameters(), a.parameters(), b.parameters(), strict=True):
            p += v_second[0] * (r - p) + v_second[1] * (q - p)  # both differences are taken from the base
    assert point["values"]["learned"]["loss"] == pytest.approx(held_out_loss(base, examples)["loss"], abs=0.02)
    assert first["values"]["learned"]["loss"] == pytest.approx(held_out_loss(a, examples)["loss"], abs=0.02)


def test_killed_landscape_goes_on_and_a_finer_one_keeps_its_points(words, tmp_path, monkeypatch, capsys):
    measured = []
    measure, append = landscape.Ruler.measure, landscape.append_jsonl

    def counted(self, model):
        measured.append(model)
        return measure(self, model)

    def killed(file, row):
        append(file, row)
        raise KeyboardInterrupt

    monkeypatch.setattr(landscape.Ruler, "measure", counted)
    monkeypatch.setattr(landscape, "append_jsonl", killed)
    assert cli.main(words) == 130
    assert "run the same command again to resume" in capsys.readouterr().err
    assert len(measured) == 4 + 1  # base, models, one point
    (tmp_path / "out" / "points.jsonl").open("a").write('{"x": 1')  # half a line
    monkeypatch.setattr(landscape, "append_jsonl", append)
    assert cli.main(words) == 0
    assert len(measured) == 5 + 3, "only the points that were missing"
    assert "3 of 4 points" in capsys.readouterr().err
    before = load_landscape(tmp_path / "out").points
    assert cli.main([*words, "--resolution", "3"]) == 0
    assert len(measured) == 8 + 5
    found = load_landscape(tmp_path / "out")
    assert found.points[:4] == before
    assert not found.missing
    assert cli.main([*words, "--resolution", "3"]) == 0
    assert len(measured) == 13
    assert cli.main(["report", str(tmp_path / "out")]) == 0
    assert "held-out" in capsys.readouterr().out


def test_what_cannot_be_mapped_is_refused_in_a_sentence_before_anything_is_written(
    words, tmp_path, tiny_model, tuned, capsys
):
    tokenizer = tiny_llama.make_tokenizer()
    other = tiny_llama.make_model(tokenizer, num_hidden_layers=1)
    folders.saved(other, tmp_path / "other", tiny_model)
    run = tmp_path / "runs" / "adamw-s0"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    a, b, c = words[2:5]
    for models, problem in (
        ([a, str(tmp_path / "other")], r"does not have the parameters of"),
        ([a], "needs a base and two models or more"),
        ([a, b, a], "given twice"),
        ([a, str(tmp_path / "none")], "There is no model at"),
        ([a, str(run)], "kept no model"),
        ([a, b, "--resolution", "1"], "--resolution is 1, expected at least 2"),
        ([a, b, "--probes", "texts"], "Unknown probe `texts`"),
        ([tiny_model, b], "has the weights of the base"),
        ([a, b, "--rows", "0"], "--rows is 0"),
    ):
        assert cli.main([words[0], tiny_model, *models, "--output", str(tmp_path / "out")]) == 2
        printed = capsys.readouterr().err
        assert problem in printed
        assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert cli.main(words) == 0
    shutil.copytree(tuned / "c", tmp_path / "d")
    for changed in ([tiny_model, a, b], [tiny_model, a, b, c, "--rows", "2"], [tiny_model, a, str(tmp_path / "d"), c]):
        flags = ["--rows", "3", *words[words.index("--probes") :]] if "--rows" not in changed else words[-6:]
        capsys.readouterr()
        assert cli.main([words[0], *changed, "--data", words[words.index("--data") + 1], *flags]) == 2
        assert "holds another landscape" in capsys.readouterr().err
    (tmp_path / "filled").mkdir()
    (tmp_path / "filled" / "thesis.txt").touch()
    assert cli.main([*words[:-1], str(tmp_path / "filled")]) == 2
    assert "is not a folder of mofo landscape" in capsys.readouterr().err
    with sole_owner(tmp_path / ".out.lock"):
        assert cli.main(words) == 2
    assert f"Another process is working on {tmp_path / 'out'}: wait for it" in capsys.readouterr().err
    assert math.isfinite(load_landscape(tmp_path / "out").unit)

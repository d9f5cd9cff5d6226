"""`measure_path` and `mofo blend`: the way between a base and a tuned model."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from mofo import cli
from mofo.errors import UserError
from mofo.forgetting import load_forgetting
from mofo.measure.pair import measure_pair
from mofo.measure.path import measure_path
from mofo.measure.progress import watched
from mofo.models.blending import blend, blended_models
from reference import tiny_llama
from reference.folders import contents, saved

PROBES = ["divergence", "text"]


pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def tuned(tiny_model, learned_model, tmp_path_factory):
    """The folder of a model that learned the sums; do not write into it."""
    return saved(learned_model, tmp_path_factory.mktemp("tuned"), tiny_model)


@pytest.fixture(scope="module")
def record(quick, tiny_model, tuned, tiny_data):
    return measure_path(tiny_model, tuned, [0.5, 0.25, 0.5, 0], probes=PROBES, data=tiny_data)


def naive(base, tuned, scale):
    return {name: (base[name].double() + scale * (tuned[name].double() - base[name].double())) for name in tuned}


def test_path_is_measured_at_each_share_and_at_both_ends(record, tiny_model, tuned, tiny_data):
    assert [mark.at for mark in record.marks] == [0.25, 0.5, 1]
    ends = measure_pair(tiny_model, tuned, probes=PROBES, data=tiny_data)
    assert record.base == ends.base.point
    assert record.end == ends.tuned.point
    assert [metric.label for metric in record.metrics] == ["held-out loss", "divergence", "text loss"]


def test_path_in_bfloat16_is_measured_with_the_weights_of_each_share(tiny_model, tuned, tiny_data, monkeypatch):
    for module in ("pair", "path"):
        monkeypatch.setattr(f"mofo.measure.{module}.choose_precision", lambda _: "bfloat16")
    found = measure_path(tiny_model, tuned, [0.2, 0.5], probes=["divergence"], data=tiny_data)
    assert found.end == measure_pair(tiny_model, tuned, probes=["divergence"], data=tiny_data).tuned.point


def test_what_is_measured_is_the_model_that_is_written(record, tiny_model, tuned, tiny_data, tmp_path, capsys):
    output = tmp_path / "half"
    assert cli.main(["blend", tiny_model, tuned, "--save", "0.5", "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"Wrote {output}: the model at 0.5 of the change.\n"
    weights, expected = (
        load_file(output / "model.safetensors"),
        naive(*(load_file(Path(folder) / "model.safetensors") for folder in (tiny_model, tuned)), 0.5),
    )
    for name, weight in weights.items():
        assert torch.equal(weight, expected[name].float())
    written = measure_pair(tiny_model, str(output), probes=PROBES, data=tiny_data)
    assert record.marks[1].point == written.tuned.point


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_share_is_exact_at_both_ends_and_rounded_once_between(dtype):
    torch.manual_seed(0)
    base = torch.cat([torch.randn(50), torch.tensor([-0.0, 1e30, 1.0])]).to(dtype)
    tuned = torch.cat([torch.randn(50), torch.tensor([0.0, 1e-30, -0.0])]).to(dtype)
    for scale, end in ((0, base), (1, tuned)):
        made = blend(base, tuned, scale)
        assert made.view(torch.uint8).equal(end.view(torch.uint8))
        assert made.data_ptr() != end.data_ptr()
    assert torch.equal(blend(base, tuned, 0.3), (base.double() + 0.3 * (tuned.double() - base.double())).to(dtype))


def test_blended_models_are_one_model_and_leave_the_base(tiny_model, tuned):
    base, other = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tiny_model, tuned))
    before, after = ({name: p.detach().clone() for name, p in m.named_parameters()} for m in (base, other))
    for scale, model in blended_models(base, other, [0.5, 0.0, 1.0]):
        assert model is other
        expected = naive(before, after, scale)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, expected[name].float())
    for name, parameter in base.named_parameters():
        assert torch.equal(parameter, before[name])


def test_output_layer_of_its_own_is_blended_too(tokenizer):
    base = tiny_llama.make_model(tokenizer)
    tuned = tiny_llama.make_model(tokenizer, tie_word_embeddings=False, seed=1)
    end = tuned.lm_head.weight.detach().clone()
    _, half = next(iter(blended_models(base, tuned, [0.5])))
    assert torch.equal(half.lm_head.weight, blend(base.lm_head.weight.detach(), end, 0.5))
    with pytest.raises(UserError, match="there is no model between the two"):
        next(iter(blended_models(tuned, base, [0.5])))


def test_bfloat16_is_measured_as_it_would_be_written(tiny_model, learned_model, tmp_path, tiny_data):
    half = saved(copy.deepcopy(learned_model).bfloat16(), tmp_path / "tuned", tiny_model)
    found = measure_path(tiny_model, half, [0.5], probes=["divergence"], data=tiny_data)
    argv = ["blend", tiny_model, half, "--save", "0.5", "--output", str(tmp_path / "out")]
    assert cli.main(argv) == 0
    assert {w.dtype for w in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    written = measure_pair(tiny_model, str(tmp_path / "out"), probes=["divergence"], data=tiny_data)
    assert found.marks[0].point == written.tuned.point


def test_knee_is_the_point_farthest_above_the_line(record):
    learned, forgotten = record.learning, record.forgetting
    assert (learned.label, forgotten.label) == ("held-out loss", "divergence")
    heights = {}
    for mark in record.marks[:-1]:
        loss = (record.base.learned["task"]["loss"] - mark.point.learned["task"]["loss"]) / (
            record.base.learned["task"]["loss"] - record.end.learned["task"]["loss"]
        )
        heights[mark.at] = loss - mark.point.forgotten["divergence"]["kl"] / record.end.forgotten["divergence"]["kl"]
    assert record.knee == max(heights, key=heights.get)
    assert heights[record.knee] > 0


def test_blend_shows_the_way_and_writes_it_beside_the_model(tiny_model, tuned, tiny_data, tmp_path, capsys):
    output = tmp_path / "milder"
    argv = ["blend", tiny_model, tuned, "--data", tiny_data, "--scale", "0.3", "--probes", "divergence"]
    assert cli.main([*argv, "--save", "0.6", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "of what it learned and" in printed.splitlines()[0]
    assert [line.split()[0] for line in printed.splitlines() if line.strip()[:1].isdigit()] == ["0", "0.3", "0.6", "1"]
    assert printed.count(" knee") == 2, "in the sentence and in the table"
    assert printed.endswith(f"Wrote {output}: the model at 0.6 of the change.\n")
    written = load_forgetting(output)
    assert [mark.at for mark in written.marks] == [0.3, 0.6, 1]
    assert written.model == Path(tuned).name

    assert cli.main([*argv, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [mark["at"] for mark in shown["marks"]] == [0.3, 1]
    assert cli.main(["report", str(output)]) == 0
    assert "Forgetting against learning" in (output / "report.html").read_text()


def test_adapter_names_its_base_and_is_measured_as_it_is_written(tiny_model, tiny_data, tmp_path, capsys):
    torch.manual_seed(0)
    settings = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM"}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(**settings))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    argv = ["blend", str(tmp_path / "adapter"), "--data", tiny_data, "--scale", "", "--probes", "text", "--json"]
    assert cli.main([*argv, "--save", "0.5", "--output", str(tmp_path / "half")]) == 0
    half, whole = json.loads(capsys.readouterr().out)["marks"]
    for mark, folder in ((half, "half"), (whole, "adapter")):
        alone = measure_pair(None, str(tmp_path / folder), probes=["text"], data=tiny_data).tuned
        assert mark["point"]["forgotten"]["text"]["loss"] == pytest.approx(alone.forgotten["text"]["loss"], abs=1e-5)
        assert mark["point"]["learned"]["task"]["loss"] == pytest.approx(alone.learned["loss"], abs=1e-5)


def test_another_base_is_refused(tuned, tiny_data, tokenizer, tmp_path, capsys):
    other = tmp_path / "other"
    tiny_llama.make_model(tokenizer, num_hidden_layers=1).save_pretrained(other)
    tokenizer.save_pretrained(other)
    assert cli.main(["blend", str(other), tuned, "--data", tiny_data]) == 2
    assert "are not of one architecture" in capsys.readouterr().err
    assert cli.main(["blend", str(other), tuned, "--save", "0.5", "--output", str(tmp_path / "out")]) == 2
    assert "so that no share of its change can be saved" in capsys.readouterr().err
    assert cli.main(["blend", tuned, "--data", tiny_data]) == 2
    assert "does not say what it was tuned from" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_way_reports_each_stage(tiny_model, tuned, tiny_data):
    seen = []
    with watched(lambda what, done, total: seen.append(what) if done else None, every=0.0):
        measure_path(tiny_model, tuned, [0.5], probes=["divergence"], data=tiny_data)
    names = ["base", "scale 0.5", "scale 1"]
    stages = [what for what in seen if what != "tokens that the base writes"]
    assert stages[:2] == ["loading the models", "preparing the probes"]
    assert stages[2:] == [f"{what}, {name}" for name in names for what in ("held-out loss", "divergence")]


def test_model_that_did_not_learn_has_no_knee(tiny_model, tiny_data, capsys):
    argv = ["blend", tiny_model, tiny_model, "--data", tiny_data, "--scale", "0.5", "--probes", "divergence"]
    assert cli.main(argv) == 0
    assert "did not learn beyond chance on these data" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--scale", "1.5"], r"The scale 1.5 is not between 0, the base, and 1, the tuned model"),
        (["--scale", "-0.1"], "The scale -0.1 is not between"),
        (["--save", "2", "--output", "out"], "The scale 2 is not between"),
        (["--probes", "divergense"], r"Unknown probe `divergense` \(did you mean divergence\?\)"),
        (["--probes", ""], "There is no probe"),
        (["--save", "0.5"], "--save X and --output FOLDER go together"),
        (["--output", "out"], "--save X and --output FOLDER go together"),
        (["--data", "none.jsonl"], "none.jsonl"),
        (["--rows", "0"], "--rows is 0"),
    ],
)
def test_bad_flags_are_one_sentence_before_anything_is_loaded(
    tiny_model, tuned, tiny_data, tmp_path, monkeypatch, capsys, words, sentence
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mofo.models.pairing.load_model", lambda *_, **__: pytest.fail("loaded"))
    assert cli.main(["blend", tiny_model, tuned, "--data", tiny_data, *words]) == 2
    printed = capsys.readouterr()
    assert re.search(sentence, printed.err)
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "There is nothing to do: give --data to measure the way, --save to write a model, or both."),
        (["--scale", "0.5"], "--scale says what to measure, which takes --data"),
        (["--probes", "text", "--save", "1", "--output", "out"], "--probes says what to measure, which takes --data"),
    ],
)
def test_blend_without_data_measures_nothing(tiny_model, tuned, tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["blend", tiny_model, tuned, *words]) == 2
    assert sentence in capsys.readouterr().err
    assert contents(tmp_path) == {}

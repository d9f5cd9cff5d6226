"""`Share`, `mofo blend --save`: the model at a share of the way, whole or not at all."""

import errno
import json
import os
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mofo import cli
from mofo.deltas.share import Share
from mofo.errors import UserError
from mofo.models.load import load_model
from reference.folders import contents, moved, saved


def weights(folder):
    """All tensors of a folder, however many files they are in."""
    return {name: w for file in sorted(Path(folder).glob("*.safetensors")) for name, w in load_file(file).items()}


def parameters(folder):
    return {name: p.detach() for name, p in load_model(str(folder))[0].named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_share_is_rounded_once_and_has_the_files_of_the_tuned_model(tiny_model, tmp_path, dtype, scale):
    tuned = saved(moved(tiny_model, dtype=dtype), tmp_path / "tuned", tiny_model, max_shard_size="40KB")
    (tmp_path / "tuned" / "mofo.json").write_text("{}")
    written = Share(tiny_model, tuned, scale, tmp_path / "out").write({"forgetting.json": "{}\n"})
    old, new, made = weights(tiny_model), weights(tuned), weights(tmp_path / "out")
    for name, weight in made.items():
        start = old[name].double()
        assert torch.equal(weight, (start + scale * (new[name].double() - start)).to(dtype))
    files = contents(tmp_path / "out")
    assert files.pop("forgetting.json") == b"{}\n"
    expected = contents(tuned)
    del expected["mofo.json"]  # it says how the tuned model was made
    assert files.keys() == expected.keys()
    assert {name for name in files if files[name] != expected[name]} == (
        {name for name in files if name.endswith(".safetensors")} if scale != 1 else set()
    )
    assert written.bytes == sum(len(files[name]) for name in files if name.endswith(".safetensors"))


def test_ends_are_the_models_to_the_bit(tiny_model, tmp_path):
    base, tuned = (saved(AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path / n, tiny_model) for n in "bt")
    for folder, values in ((base, [-0.0, 1e30, 1.0]), (tuned, [0.0, 1e-30, -0.0])):
        tensors = load_file(Path(folder) / "model.safetensors")
        tensors["model.norm.weight"][:3] = torch.tensor(values)
        save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
    for scale, end in ((0.0, base), (1.0, tuned)):
        Share(base, tuned, scale, tmp_path / str(scale)).write({})
        assert contents(tmp_path / str(scale)) == contents(end)


def test_adapter_stays_one_with_its_alpha_scaled(tiny_model, adapter, tmp_path, capsys):
    assert cli.main(["blend", adapter, "--save", "0.25", "--output", str(tmp_path / "out")]) == 0
    base, whole, made = (parameters(folder) for folder in (tiny_model, adapter, tmp_path / "out"))
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == (
        Path(adapter) / "adapter_model.safetensors"
    ).read_bytes()
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["lora_alpha"] == 1
    for name, weight in made.items():
        assert torch.allclose(weight, base[name] + 0.25 * (whole[name] - base[name]), atol=1e-6)
    for scale, end in (("0", base), ("1", whole)):
        assert cli.main(["blend", tiny_model, adapter, "--save", scale, "--output", str(tmp_path / scale)]) == 0
        assert all(torch.equal(weight, end[name]) for name, weight in parameters(tmp_path / scale).items())
    assert capsys.readouterr().out.endswith("the model at 1 of the change.\n")


def test_new_tokens_are_the_tuned_models(tiny_model, tmp_path):
    model = moved(tiny_model)
    model.resize_token_embeddings(280)
    tuned = saved(model, tmp_path / "tuned", tiny_model)
    Share(tiny_model, tuned, 0.5, tmp_path / "out").write({})
    name = "model.embed_tokens.weight"
    old, new, made = (weights(folder)[name] for folder in (tiny_model, tuned, tmp_path / "out"))
    assert torch.equal(made[len(old) :], new[len(old) :])
    assert torch.allclose(made[: len(old)], (old + new[: len(old)]) / 2)


@pytest.mark.parametrize("spoil", ["other layers", "other width", "integers", "whole weights", "dora", "bin"])
def test_models_without_one_between_them_are_refused(tiny_model, tuned, adapter, tmp_path, copy_of, spoil):
    end = copy_of(adapter if spoil in ("whole weights", "dora") else tuned, "end")
    file = next(Path(end).glob("*.safetensors"))
    tensors = load_file(file)
    if spoil == "other layers":
        tensors["model.layers.7.mlp.up_proj.weight"] = torch.zeros(2)
        expected = r"end stores model.layers.7.mlp.up_proj.weight and .* does not"
    elif spoil == "other width":
        tensors["model.norm.weight"] = torch.zeros(4, 3)
        expected = r"model.norm.weight is \[32\] in .* and \[4, 3\] in"
    elif spoil == "integers":
        tensors["model.norm.weight"] = torch.zeros(32, dtype=torch.int8)
        expected = "model.norm.weight is stored as F32 in .* and I8 in .* give models in 16 or 32 bits"
    elif spoil == "whole weights":
        tensors["base_model.model.model.norm.weight"] = torch.zeros(32)
        expected = "holds whole weights, such as base_model.model.model.norm.weight, cannot be scaled"
    elif spoil == "dora":
        config = Path(end) / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
        expected = "kind DoRA cannot be scaled: merge it into its base first"
    save_file(tensors, file, metadata={"format": "pt"})
    if spoil == "bin":
        file.rename(file.with_name("pytorch_model.bin"))
        expected = "has no weights as safetensors"
    with pytest.raises(UserError, match=expected):
        Share(tiny_model, end, 0.5, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_adapter_as_base_is_refused(adapter, tuned, tmp_path):
    with pytest.raises(UserError, match="is an adapter, and the way begins at a whole model"):
        Share(adapter, tuned, 0.5, tmp_path / "out")


def test_output_that_cannot_be_written_is_refused_before_anything_is_measured(
    tiny_model, tuned, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("mofo.measure.path.measure_path", lambda *_, **__: pytest.fail("measured"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("kept")
    argv = ["blend", tiny_model, tuned, "--data", "held-out.jsonl", "--save", "0.5", "--output"]
    for words, sentence in (
        ([tiny_model], "exists: give another --output, or --overwrite"),
        ([str(tmp_path / "full"), "--overwrite"], "holds more than a model, which --overwrite would delete"),
        ([str(tmp_path / "none" / "out")], "does not exist: make it first"),
    ):
        assert cli.main([*argv, *words]) == 2
        assert sentence in capsys.readouterr().err
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 9, 1))
    assert cli.main([*argv, str(tmp_path / "out")]) == 2
    assert "The disk has 0.00 GB free" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["full"]
    assert contents(tmp_path / "full") == {"notes.txt": b"kept"}


def test_disk_that_fills_up_leaves_what_was_there(tiny_model, tuned, tmp_path, monkeypatch, copy_of):
    output = Path(copy_of(tiny_model, "output"))
    share = Share(tiny_model, tuned, 0.5, output, overwrite=True)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mofo.deltas.share.blended", full)
    with pytest.raises(UserError, match="output cannot be written: No space left on device"):
        share.write({})
    assert contents(output) == contents(tiny_model)
    assert os.listdir(tmp_path) == ["output"]


def test_model_is_replaced_in_its_own_place(tiny_model, tuned, copy_of, capsys):
    place = copy_of(tuned)
    assert cli.main(["blend", tiny_model, place, "--save", "0.5", "--output", place, "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scale"] == 0.5
    old, new, made = (weights(folder) for folder in (tiny_model, tuned, place))
    for name, weight in made.items():
        assert torch.equal(weight, ((old[name].double() + new[name].double()) / 2).float())
    assert len(AutoTokenizer.from_pretrained(place)) == len(AutoTokenizer.from_pretrained(tuned))

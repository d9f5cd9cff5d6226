import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mofo.errors import UserError
from mofo.models.load import empty_model, load_model, load_tokenizer, local_folder, resolve_model


def test_load_model_of_a_folder_gives_a_padding_token(tiny_model):
    model, tokenizer = load_model(tiny_model)
    assert model.dtype == torch.float32
    assert tokenizer.pad_token_id is not None


def test_load_model_names_a_folder_that_holds_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=f"The folder {re.escape(str(tmp_path))} has no tokenizer: copy tokenizer.json"):
        load_model(str(tmp_path))


def test_load_tokenizer_names_a_folder_that_holds_none(tmp_path):
    with pytest.raises(UserError, match=f"The folder {re.escape(str(tmp_path))} has no tokenizer: copy tokenizer.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("spec", ["./none", "/none/there", "a/b/c", "none.gguf"])
def test_resolve_model_names_one_that_is_not_there(spec):
    with pytest.raises(UserError, match=spec):
        resolve_model(spec)


def test_resolve_model_refuses_a_folder_without_a_model(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        resolve_model(str(tmp_path))


def test_resolve_model_leaves_a_hub_id_alone():
    assert resolve_model("some-org/some-model") == "some-org/some-model"


def test_local_folder_of_a_hub_id_says_so_without_a_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="is not a local folder and could not be fetched from the Hub"):
        local_folder("some-org/some-model")


def test_empty_model_refuses_what_is_no_causal_language_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match=r"\(vit\) is not a causal language model"):
        empty_model(str(tmp_path))


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def cut_weights(folder, size):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])


def without_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.self_attn.q_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write(name, content):
    return lambda folder: (folder / name).write_text(content)


def remove(name):
    return lambda folder: (folder / name).unlink()


BROKEN = {
    "no config": (write("config.json", ""), "not a valid JSON file"),
    "config of another kind": (write("config.json", "[]"), "Unrecognized model|must be a mapping"),
    "unknown architecture": (write("config.json", '{"model_type": "nope"}'), "model type `nope`"),
    "no weights": (remove("model.safetensors"), "no file named model.safetensors"),
    "empty weights": (lambda folder: cut_weights(folder, 0), "cannot be loaded"),
    "half of the header": (lambda folder: cut_weights(folder, 100), "cannot be loaded"),
    "half of the weights": (lambda folder: cut_weights(folder, 20_000), "cannot be loaded"),
    "a pointer of git-lfs": (
        write("model.safetensors", "version https://git-lfs.github.com/spec/v1"),
        "cannot be loaded",
    ),
    "a weight is missing": (
        without_a_weight,
        r"not complete: 1 are missing, such as model\.layers\.1\.self_attn\.q_proj",
    ),
    "a larger configuration": (
        lambda folder: change_config(folder, intermediate_size=128),
        r"do not fit its config\.json: model\.layers\.0\.mlp\.down_proj\.weight is \(32, 64\), expected \(32, 128\)",
    ),
    "more layers": (lambda folder: change_config(folder, num_hidden_layers=3), "are not complete: 9 are missing"),
    "an index without its files": (
        lambda folder: (
            remove("model.safetensors")(folder),
            write("model.safetensors.index.json", '{"metadata": {}, "weight_map": {"x": "model-1.safetensors"}}')(
                folder
            ),
        ),
        "cannot be loaded|not complete",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_models_are_refused_when_they_are_looked_at_and_when_they_are_loaded(tiny_model, tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    breaks, message = BROKEN[name]
    breaks(folder)
    for use in (empty_model, load_model):
        with pytest.raises(UserError, match=message) as refusal:
            use(str(folder))
        assert str(folder) in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_old_weights_are_looked_at_too(tiny_model, tmp_path):
    model, tokenizer = load_model(tiny_model)
    state = model.state_dict()
    for part in (model.config, tokenizer):
        part.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert {p.device.type for p in empty_model(str(tmp_path)).parameters()} == {"meta"}
    del state["model.norm.weight"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"missing, such as model\.norm\.weight"):
        empty_model(str(tmp_path))

import json

import pytest
import torch
from safetensors.torch import save_file

from mofo.errors import UserError
from mofo.models.weights import Weights, depth, layer_of, tied_names, weights_of


def test_weights_of_a_folder_without_them_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        Weights(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="cannot be read"):
        Weights(tmp_path)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": torch.zeros(2)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        Weights(tmp_path)
    save_file({"b": torch.ones(2)}, tmp_path / "model-00002-of-00002.safetensors")
    assert {name: tensor.tolist() for name, tensor in Weights(tmp_path).items()} == {"a": [0, 0], "b": [1, 1]}


def test_weights_of_a_model_share_its_storage_and_name_tied_ones_once():
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(5, 3), "head": torch.nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    weights = weights_of(model)
    assert set(weights) == {"embed.weight"}
    assert weights["embed.weight"].data_ptr() == model["embed"].weight.data_ptr()
    assert not weights["embed.weight"].requires_grad


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.embed_tokens.weight", "embed_tokens"),
        ("model.layers.11.self_attn.q_proj.bias", "11"),
        ("transformer.h.0.mlp.c_fc.weight", "0"),
        ("model.layers.3.mlp.experts.7.up_proj.weight", "3"),
        ("model.norm.weight", "norm"),
        ("lm_head.weight", "lm_head"),
    ],
)
def test_layer_of(name, layer):
    assert layer_of(name) == layer


def test_depth_orders_layers_as_in_the_model():
    layers = ["norm", "10", "lm_head", "2", "embed_tokens", "0"]
    assert sorted(layers, key=depth) == ["embed_tokens", "0", "2", "10", "lm_head", "norm"]


def test_tied_names_are_those_of_equal_matrices_outside_of_the_layers():
    matrix, vector = torch.randn(5, 3), torch.zeros(3)
    weights = {"lm_head.weight": matrix, "embed_tokens.weight": matrix.clone(), "norm.weight": vector}
    assert tied_names(weights | {"norm2.weight": vector, "layers.0.weight": matrix}) == {"lm_head.weight"}
    assert tied_names(weights | {"lm_head.weight": matrix + 1}) == set()

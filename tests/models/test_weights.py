import pytest
import torch

from mofo.models.weights import copy_of_weights, depth, layer_of, tied_names, weights_of


def test_weights_of_a_model_share_its_storage_and_name_tied_ones_once():
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(5, 3), "head": torch.nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    weights = weights_of(model)
    assert set(weights) == {"embed.weight"}
    assert weights["embed.weight"].data_ptr() == model["embed"].weight.data_ptr()
    assert not weights["embed.weight"].requires_grad


def test_copy_of_weights_stays_when_the_model_moves():
    model = torch.nn.Linear(2, 2)
    copied = copy_of_weights(model)
    before = {name: weight.clone() for name, weight in weights_of(model).items()}
    with torch.no_grad():
        model.weight += 1
    assert all(torch.equal(copied[name], before[name]) for name in ("weight", "bias"))


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

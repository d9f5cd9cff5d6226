import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from mofo.errors import UserError
from mofo.measure import weight_distance
from mofo.measure.distance import CHUNK
from mofo.models.weights import weights_of


def test_weight_distance_of_the_base_from_itself_is_0(base):
    measured = weight_distance(base.state_dict(), base.state_dict())
    assert (measured.l2, measured.relative, measured.moved) == (0, 0, 0)
    assert [layer.layer for layer in measured.layers] == ["embed_tokens", "0", "1", "norm"]
    assert sum(layer.parameters for layer in measured.layers) == sum(p.numel() for p in base.parameters())


def test_weight_distance_equals_the_definition_in_total_and_per_layer(base, tuned):
    old, new = dict(base.named_parameters()), dict(tuned.named_parameters())
    with torch.no_grad():
        new["model.layers.1.mlp.up_proj.weight"].copy_(old["model.layers.1.mlp.up_proj.weight"])
        differences = {name: (new[name] - old[name]).double() for name in new}
    measured = weight_distance(base.state_dict(), tuned.state_dict())

    def expected(names):
        return {
            "l2": pytest.approx(math.sqrt(sum(float(differences[name].square().sum()) for name in names)), rel=1e-6),
            "moved": sum(int((differences[name] != 0).sum()) for name in names)
            / sum(differences[name].numel() for name in names),
        }

    assert {"l2": measured.l2, "moved": measured.moved} == expected(differences)
    length = math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in old.values()))
    assert measured.relative == pytest.approx(measured.l2 / length)
    for layer in measured.layers:
        names = [name for name in differences if f".{layer.layer}." in name]
        assert {"l2": layer.l2, "moved": layer.moved} == expected(names)
        assert layer.parameters == sum(differences[name].numel() for name in names)


@settings(deadline=None)
@given(st.integers(1, 3 * CHUNK), st.integers(0, 2**31))
def test_weight_distance_counts_every_moved_entry_once(size, seed):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(size, generator=generator)
    mask = torch.rand(size, generator=generator) < 0.3
    measured = weight_distance({"w.weight": base}, {"w.weight": torch.where(mask, base + 2, base)})
    assert measured.moved == int(mask.sum()) / size
    assert measured.l2 == pytest.approx(2 * math.sqrt(int(mask.sum())), rel=1e-5)


def test_weight_distance_takes_negative_zero_for_zero_and_no_denormal():
    base = torch.tensor([0.0, 0.0, 1.0, 2.0])
    tuned = torch.tensor([-0.0, 1e-45, 1.0, 2.0])
    assert weight_distance({"w": base}, {"w": tuned}).moved == 0.25


def test_weight_distance_changes_no_tensor_and_depends_on_no_layout():
    base = torch.randn(6, 4, dtype=torch.float64).t()
    tuned = (base + 1).contiguous()
    before = base.clone(), tuned.clone()
    assert weight_distance({"w": base}, {"w": tuned}).l2 == pytest.approx(math.sqrt(24))
    assert torch.equal(base, before[0])
    assert torch.equal(tuned, before[1])


def test_weight_distance_of_a_copy_in_bfloat16_is_0(base, tuned):
    copied = {name: tensor.bfloat16() for name, tensor in base.state_dict().items()}
    assert weight_distance(base.state_dict(), copied).moved == 0
    assert weight_distance(copied, base.state_dict()).moved > 0.9, "a float32 model is not its rounded base"
    half = {name: tensor.bfloat16() for name, tensor in tuned.state_dict().items()}
    exact = weight_distance(base.state_dict(), tuned.state_dict())
    assert weight_distance(base.state_dict(), half).l2 == pytest.approx(exact.l2, rel=0.01)


def test_weight_distance_lists_mismatched_tensors(base):
    state = base.state_dict()
    other = {name: tensor for name, tensor in state.items() if name != "model.norm.weight"}
    with pytest.raises(UserError, match=r"`model\.norm\.weight` is only in the base"):
        weight_distance(state, other)
    with pytest.raises(UserError, match=r"`model\.norm\.weight` is only in the tuned model"):
        weight_distance(other, state)
    wrong = state | {"model.norm.weight": torch.zeros(3)}
    with pytest.raises(UserError, match=r"`model\.norm\.weight` is \[64\] in the base and \[3\] in the tuned model"):
        weight_distance(state, wrong)
    with pytest.raises(UserError, match=r"and \d+ more"):
        weight_distance(state, {"x": torch.zeros(1)})


def test_weight_distance_of_saved_models_is_that_of_models_in_memory(base, tuned, tmp_path):
    base.save_pretrained(tmp_path / "base")
    tuned.save_pretrained(tmp_path / "tuned", max_shard_size="100KB")
    assert len(list((tmp_path / "tuned").glob("*.safetensors"))) > 1
    old, new = (weights_of(AutoModelForCausalLM.from_pretrained(tmp_path / name)) for name in ("base", "tuned"))
    assert "lm_head.weight" not in old, "tied, so named once"
    expected = weight_distance(base.state_dict(), tuned.state_dict())
    assert weight_distance(old, new) == expected
    assert weight_distance(old, tuned.state_dict()) == expected, "a tied copy in memory is no tensor of its own"
    assert weight_distance(base.state_dict(), new) == expected


def test_weight_distance_compares_an_output_layer_that_is_not_tied(untied_base):
    tuned = copy.deepcopy(untied_base)
    with torch.no_grad():
        tuned.lm_head.weight += 1
    measured = weight_distance(untied_base.state_dict(), tuned.state_dict())
    assert [(layer.layer, layer.moved) for layer in measured.layers] == [
        ("embed_tokens", 0),
        ("0", 0),
        ("1", 0),
        ("lm_head", 1),
        ("norm", 0),
    ]


def test_weight_distance_notices_an_output_layer_that_came_untied(base):
    untied = base.state_dict()
    untied["lm_head.weight"] = untied["lm_head.weight"] + 1
    stored_once = {name: tensor for name, tensor in base.state_dict().items() if name != "lm_head.weight"}
    with pytest.raises(UserError, match=r"`lm_head\.weight` is only in the tuned model"):
        weight_distance(stored_once, untied)
    assert weight_distance(base.state_dict(), untied).layers[-2].moved == 1

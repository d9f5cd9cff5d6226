import copy
import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from mofo.errors import UserError
from mofo.measure import weight_distance
from mofo.models import pairing
from mofo.models.load import load_model
from mofo.models.pairing import base_of, load_pair
from mofo.models.weights import token_rows, weights_of
from reference.architectures import make_model


@pytest.fixture
def adapted(tiny_model):
    """A model with an adapter that has moved."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter += 0.3
    return adapted


@pytest.fixture
def adapter(adapted, tmp_path):
    """Its folder, without a tokenizer."""
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def saved(model, folder, tokenizer_of):
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_of).save_pretrained(folder)
    return str(folder)


def naive_merge(adapted):
    """W + 2·B·A / … by hand, in float64."""
    merged = {name: weight.double() for name, weight in weights_of(adapted.base_model.model).items()}
    plain = {}
    for name, weight in merged.items():
        if ".base_layer." in name:
            a = merged[name.replace("base_layer", "lora_A.default")]
            b = merged[name.replace("base_layer", "lora_B.default")]
            plain[name.replace(".base_layer", "")] = weight + adapted.peft_config["default"].lora_alpha / 2 * (b @ a)
        elif "lora_" not in name:
            plain[name] = weight
    return plain


@pytest.mark.parametrize("named", [True, False])
def test_load_pair_merges_an_adapter_into_its_base(tiny_model, adapted, adapter, named):
    base = base_of(None, str(adapter))
    assert base == tiny_model
    if not named:  # the base of the configuration has been moved away since
        config = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/gone"}))
    pair = load_pair(base, str(adapter))
    merged = naive_merge(adapted)
    assert weights_of(pair.tuned).keys() == merged.keys()
    for name, weight in weights_of(pair.tuned).items():
        torch.testing.assert_close(weight.double(), merged[name], atol=1e-6, rtol=1e-5)
    moved = {layer.layer: layer.moved for layer in weight_distance(weights_of(pair.base), merged).layers}
    assert moved["norm"] == moved["embed_tokens"] == 0
    assert moved["0"] > 0.3


def test_load_model_of_an_adapter_is_the_merged_model(adapted, adapter):
    model, tokenizer = load_model(str(adapter))
    ids = torch.tensor([tokenizer("what is two").input_ids])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, adapted.eval()(ids).logits, atol=1e-5, rtol=1e-4)


def test_load_model_of_an_adapter_with_more_tokens_than_its_base(tiny_model, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    rows = token_rows(model)
    model.resize_token_embeddings(rows + 3)
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    pair = load_pair(tiny_model, str(tmp_path / "adapter"))
    assert token_rows(pair.base) == token_rows(pair.tuned) == rows
    assert weight_distance(weights_of(pair.base), weights_of(pair.tuned)).moved == 0
    assert pair.notes == [
        f"The base has {rows} tokens and the tuned model {rows + 3}: everything is measured on the {rows} that both "
        "have."
    ]


def test_load_model_names_an_adapter_that_does_not_fit(adapter, tmp_path):
    other = make_model("gpt2")
    base = saved(other, tmp_path / "other", base_of(None, str(adapter)))
    with pytest.raises(UserError, match="cannot be merged into its base"):
        load_model(str(adapter), base=base)


def test_base_of_a_whole_model_must_be_given(tiny_model):
    assert base_of("given", "anything") == "given"
    with pytest.raises(UserError, match="give its --base"):
        base_of(None, tiny_model)


@pytest.mark.parametrize("added", [5, -3])
@pytest.mark.parametrize("tied", [True, False])
def test_load_pair_of_different_vocabularies_has_the_tokens_of_both(tiny_model, tmp_path, added, tied):
    torch.manual_seed(0)
    model = make_model("llama", tie_word_embeddings=tied, vocab_size=280)
    base = saved(model, tmp_path / "base", tiny_model)
    tuned_model = copy.deepcopy(model)
    with torch.no_grad():
        tuned_model.model.norm.weight += 0.5
    tuned_model.resize_token_embeddings(280 + added, mean_resizing=False)
    pair = load_pair(base, saved(tuned_model, tmp_path / "tuned", tiny_model))
    common = min(280, 280 + added)
    assert token_rows(pair.base) == token_rows(pair.tuned) == common
    assert f"measured on the {common} that both have" in pair.notes[0]
    distance = weight_distance(weights_of(pair.base), weights_of(pair.tuned))
    assert distance.l2 == pytest.approx(0.5 * 32**0.5)
    ids = torch.tensor([[1, 7, 9]])
    with torch.no_grad():
        # not to the bit: a product of another width is summed in another order on some processors
        torch.testing.assert_close(pair.base(ids).logits, model(ids).logits[..., :common], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_load_pair_of_a_model_that_was_saved_in_fewer_bits_has_not_moved(tiny_model, tmp_path, dtype):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    short = saved(model.to(dtype), tmp_path / "short", tiny_model)
    for base, tuned in ((tiny_model, short), (short, tiny_model)):
        pair = load_pair(base, tuned)
        distance = weight_distance(weights_of(pair.base), weights_of(pair.tuned))
        assert (distance.moved == 0) is (tuned == short)


def test_load_pair_refuses_another_architecture_before_it_loads(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(pairing, "load_model", None)
    wider = saved(make_model("llama", hidden_size=64), tmp_path / "wider", tiny_model)
    other = saved(make_model("gpt2"), tmp_path / "other", tiny_model)
    for tuned, kind in ((wider, "llama"), (other, "gpt2")):
        with pytest.raises(UserError, match=rf"\({kind}, .* parameters\) are not of one architecture: \d+ of their"):
            load_pair(tiny_model, tuned)
    with pytest.raises(UserError, match="no model at /none"):
        load_pair(tiny_model, "/none")


def test_load_pair_says_that_quantised_weights_have_been_rounded(tiny_model, tmp_path, monkeypatch):
    shutil.copytree(tiny_model, tmp_path / "tuned")
    monkeypatch.setattr(pairing, "quantisation", lambda folder: "gptq" if folder.name == "tuned" else None)
    assert load_pair(tiny_model, str(tmp_path / "tuned")).notes == [
        "The tuned model's weights are quantised (gptq): their rounding is part of the distance."
    ]

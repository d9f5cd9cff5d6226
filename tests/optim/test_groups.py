"""Parameter groups from real model classes."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from mofo import MoFO, param_groups

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 50}


def llama(**config):
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**SIZES, **heads, **config))


def by_name(groups):
    return {name: group for group in groups for name, _ in group["params"]}


def test_param_groups_make_every_tensor_a_block_by_default():
    model = llama(tie_word_embeddings=False)
    (group,) = param_groups(model, fraction=0.1, weight_decay=0.2)
    assert (group["fraction"], group["weight_decay"], group["blocks"]) == (0.1, 0.2, 1)
    assert [name for name, _ in group["params"]] == [name for name, _ in model.named_parameters()]


def test_param_groups_leave_out_frozen_and_repeat_no_tied_parameters():
    model = llama(tie_word_embeddings=True)
    model.model.layers[0].requires_grad_(False)
    names = list(by_name(param_groups(model)))
    assert "model.embed_tokens.weight" in names
    assert not [name for name in names if "lm_head" in name or "layers.0." in name]
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        param_groups(model)


def test_exempt_norms_and_biases_updates_them_fully():
    model = llama(attention_bias=True)
    groups = by_name(param_groups(model, fraction=0.1, weight_decay=0.2, exempt_norms_and_biases=True))
    for name, param in model.named_parameters():
        assert groups[name]["fraction"] == (1.0 if param.dim() == 1 else 0.1), name
        assert groups[name]["weight_decay"] == 0.2
    undecayed = by_name(param_groups(model, weight_decay=0.2, decay_norms_and_biases=False))
    assert undecayed["model.norm.weight"]["weight_decay"] == 0.0
    assert undecayed["model.layers.0.mlp.up_proj.weight"]["weight_decay"] == 0.2


def test_heads_as_blocks_also_with_grouped_queries():
    groups = by_name(param_groups(llama(attention_bias=True), heads_as_blocks=True))
    layer = "model.layers.1.self_attn"
    assert groups[f"{layer}.q_proj.weight"]["blocks"] == groups[f"{layer}.q_proj.bias"]["blocks"] == 4
    assert groups[f"{layer}.k_proj.weight"]["blocks"] == groups[f"{layer}.v_proj.weight"]["blocks"] == 2
    assert groups[f"{layer}.o_proj.weight"]["blocks"] == 1


def test_heads_as_blocks_move_the_same_share_of_each_head():
    model = llama()
    optimizer = MoFO(param_groups(model, fraction=0.1, heads_as_blocks=True), lr=1.0)
    before = model.model.layers[0].self_attn.k_proj.weight.detach().clone()
    model(torch.arange(20)[None], labels=torch.arange(20)[None]).loss.backward()
    optimizer.step()
    moved = (model.model.layers[0].self_attn.k_proj.weight != before).view(2, -1).sum(1)
    assert moved.tolist() == [25, 25]  # of 8 rows of 32


def test_experts_as_blocks():
    config = MixtralConfig(
        **SIZES, num_attention_heads=4, num_key_value_heads=2, num_local_experts=3, num_experts_per_tok=2
    )
    model = MixtralForCausalLM(config)
    groups = by_name(param_groups(model, experts_as_blocks=True))
    experts = [name for name, param in model.named_parameters() if param.dim() == 3]
    assert len(experts) == 4
    assert all(groups[name]["blocks"] == 3 for name in experts)
    assert groups["model.embed_tokens.weight"]["blocks"] == 1


def test_param_groups_errors_name_what_the_model_lacks():
    with pytest.raises(ValueError, match="no 3-D parameter"):
        param_groups(llama(), experts_as_blocks=True)
    fused = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=50))
    with pytest.raises(ValueError, match="no separate projections"):
        param_groups(fused, heads_as_blocks=True)
    with pytest.raises(ValueError, match="has no config"):
        param_groups(torch.nn.Linear(2, 2), heads_as_blocks=True)


def test_rows_layers_and_the_model_as_blocks():
    model = llama(tie_word_embeddings=False)
    groups = by_name(param_groups(model, rows_as_blocks=True))
    assert groups["model.layers.0.mlp.up_proj.weight"]["blocks"] == 48
    assert groups["model.norm.weight"]["blocks"] == 1

    layers = param_groups(model, layers_as_blocks=True)
    groups = by_name(layers)
    assert groups["model.layers.0.mlp.up_proj.weight"] is groups["model.layers.0.input_layernorm.weight"]
    assert groups["model.layers.0.mlp.up_proj.weight"] is not groups["model.layers.1.mlp.up_proj.weight"]
    assert [group["group_as_block"] for group in layers] == [False, True, True]  # embeddings, norm and head first
    assert groups["model.embed_tokens.weight"] is groups["lm_head.weight"]

    (whole,) = param_groups(model, model_as_block=True)
    assert whole["group_as_block"]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    MoFO(param_groups(model, fraction=0.1, model_as_block=True), lr=1.0).step()
    moved = sum(int((p != before[name]).sum()) for name, p in model.named_parameters())
    assert moved == int(0.1 * sum(p.numel() for p in before.values()))

    split = param_groups(model, model_as_block=True, exempt_norms_and_biases=True)
    assert sorted(group["fraction"] for group in split) == [0.15, 1.0]


def test_cuts_that_exclude_each_other_and_models_without_layers_are_refused():
    with pytest.raises(ValueError, match="exclude each other"):
        param_groups(llama(), rows_as_blocks=True, model_as_block=True)
    with pytest.raises(ValueError, match="no numbered layers"):
        param_groups(torch.nn.Linear(2, 2), layers_as_blocks=True)

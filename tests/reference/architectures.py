"""Tiny random models of many architectures, by the name that transformers has for each."""

import json

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {
    "vocab_size": 270,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
}
"""The sizes of all; None in an entry below leaves one out."""

MAMBA = {"state_size": 4}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
WINDOWS = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGES = {"mm_tokens_per_image": 4, "image_token_index": 260, "boi_token_index": 261, "eoi_token_index": 262}

ARCHITECTURES = {
    "llama": {},
    "gpt2": {},
    "mamba": MAMBA,
    "qwen3": {},
    "qwen3_moe": EXPERTS,
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_neox": {"num_key_value_heads": None},
    "gemma3_text": WINDOWS,
    "gemma3": {
        "text_config": SIZES | WINDOWS,
        "vision_config": VISION | {"image_size": 16, "patch_size": 8},
        **IMAGES,
    },
    "mistral": {"sliding_window": 16},
    "phi3": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2, "head_dim": None, "num_key_value_heads": None},
    "bloom": {},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 32,
        "shared_intermediate_size": 16,
    },
    "mamba2": MAMBA | {"num_heads": 8, "n_groups": 1, "expand": 2, "chunk_size": 16},
    "recurrent_gemma": {
        "lru_width": 32,
        "attention_window_size": 16,
        "num_key_value_heads": 1,
        "block_types": ["recurrent", "attention"],
    },
    "rwkv": {"attention_hidden_size": 32, "context_length": 256},
    "openai-gpt": {},
    "gemma2": WINDOWS | {"query_pre_attn_scalar": 8},
    "deepseek_v3": EXPERTS
    | {
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
        "num_key_value_heads": 4,
        "num_experts": None,
        "head_dim": None,
    },
    "qwen3_next": EXPERTS
    | {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "shared_expert_intermediate_size": 16,
    },
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
    },
    "falcon_mamba": MAMBA,
}
"""What differs from `SIZES`, by the name of the architecture."""


def make_model(name, *, seed=0, **changes):
    """A random model of an architecture, in eval mode."""
    settings = SIZES | ARCHITECTURES[name] | changes
    config = AutoConfig.for_model(name, **{key: value for key, value in settings.items() if value is not None})
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config).eval()


def without_prefix(prefix):
    return lambda state: {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def gpt2_of_the_hub(state):
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 256, 256).tril() for layer in range(2)}
    return without_prefix("transformer.")(state) | masks


def pythia_of_the_hub(state):
    buffers = {}
    for layer in range(2):
        attention = f"gpt_neox.layers.{layer}.attention"
        buffers[f"{attention}.bias"] = torch.ones(1, 1, 256, 256).tril().bool()
        buffers[f"{attention}.masked_bias"] = torch.tensor(-1e9)
        buffers[f"{attention}.rotary_emb.inv_freq"] = torch.ones(1)
    return {name.replace("lm_head", "embed_out"): tensor for name, tensor in state.items()} | buffers


def gemma3_of_the_hub(state):
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix("model.").replace("language_model.", "language_model.model.")
        if name.startswith("vision_tower."):
            name = name.replace("vision_tower.", "vision_tower.vision_model.")
        renamed[name] = tensor
    return renamed


def with_experts_apart(gate="gate_proj", up="up_proj", down="down_proj", **renamed):
    """Experts as the hub has them: matrices of their own, which loading joins; `renamed` are parts of names."""

    def layout(state):
        apart = {}
        for name, tensor in state.items():
            for now, before in renamed.items():
                name = name.replace(f".{now}.", f".{before}.")
            experts, _, kind = name.rpartition(".experts.")
            for number, matrix in enumerate(tensor if experts else ()):
                place = f"{experts}.experts.{number}"
                if kind == "gate_up_proj":
                    apart[f"{place}.{gate}.weight"], apart[f"{place}.{up}.weight"] = (
                        half.clone() for half in matrix.chunk(2)
                    )
                else:
                    apart[f"{place}.{down}.weight"] = matrix.clone()
            if not experts:
                apart[name] = tensor
        return apart

    return layout


def granite_of_the_hub(state):
    renamed = {
        "experts.gate_up_proj": "input_linear.weight",
        "experts.down_proj": "output_linear.weight",
        "router.weight": "router.layer.weight",
    }
    for now, before in renamed.items():
        state = {name.replace(f"block_sparse_moe.{now}", f"block_sparse_moe.{before}"): t for name, t in state.items()}
    return state


OF_THE_HUB = {
    "qwen3_moe": with_experts_apart(),
    "mixtral": with_experts_apart("w1", "w3", "w2", mlp="block_sparse_moe"),
    "granitemoehybrid": granite_of_the_hub,
    "deepseek_v3": with_experts_apart(),
    "qwen3_next": with_experts_apart(),
    "jamba": with_experts_apart(),
    "gpt2": gpt2_of_the_hub,
    "gpt_neox": pythia_of_the_hub,
    "gemma3": gemma3_of_the_hub,
    "bloom": without_prefix("transformer."),
    "opt": without_prefix("model."),
}
"""How the hub's names differ from those of a loaded model's parameters; by default not at all."""


def save_as_on_the_hub(model, name, folder):
    """Write weights as `.bin` in two files with an index, under the names that the hub's files have."""
    model.config.save_pretrained(folder)
    tied = {key for key, _ in model.named_parameters(remove_duplicate=False)} - dict(model.named_parameters()).keys()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items() if key not in tied}
    state = OF_THE_HUB.get(name, dict)(state)
    keys = list(state)
    files = {
        "pytorch_model-00001-of-00002.bin": keys[: len(keys) // 2],
        "pytorch_model-00002-of-00002.bin": keys[len(keys) // 2 :],
    }
    for file, held in files.items():
        torch.save({key: state[key] for key in held}, folder / file)
    index = {"metadata": {}, "weight_map": {key: file for file, held in files.items() for key in held}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))

"""Parameter groups from a model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

# By the name of a module that holds a projection, the name of the number of its heads in the model's configuration.
PROJECTIONS = {
    "q_proj": "num_attention_heads",
    "k_proj": "num_key_value_heads",
    "v_proj": "num_key_value_heads",
    "query": "num_attention_heads",
    "key": "num_key_value_heads",
    "value": "num_key_value_heads",
}
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def param_groups(
    model: nn.Module,
    fraction: float = 0.15,
    weight_decay: float = 0.0,
    *,
    exempt_norms_and_biases: bool = False,
    decay_norms_and_biases: bool = True,
    heads_as_blocks: bool = False,
    experts_as_blocks: bool = False,
    rows_as_blocks: bool = False,
    layers_as_blocks: bool = False,
    model_as_block: bool = False,
) -> list[dict[str, Any]]:
    """Make parameter groups for `mofo.MoFO` from a model: by default every tensor is a block (Algorithm 1).

    Frozen parameters are left out; tied ones come once. Norms and biases are the parameters of fewer than two
    dimensions.

    Args:
        model: the model; its `config` (of transformers) is read for `heads_as_blocks` and `experts_as_blocks`.
        fraction: update fraction α of the parameters that are filtered.
        weight_decay: decoupled weight decay.
        exempt_norms_and_biases: update norms and biases always and fully (fraction 1), as the official code does.
        decay_norms_and_biases: False takes them out of the weight decay.
        heads_as_blocks: each attention head of the query, key and value projections is a block (with grouped-query
            attention there are fewer for key and value). The output projection has its heads along the second
            dimension and stays one block.
        experts_as_blocks: each expert of a 3-D tensor (experts, …, …) is a block.
        rows_as_blocks: each row of a matrix, and each matrix of a 3-D tensor, is a block.
        layers_as_blocks: all tensors of a decoder layer are one block together; those outside of the layers are blocks
            of their own.
        model_as_block: all tensors are one block together.

    Returns:
        Groups with `params` (name, tensor), `fraction`, `weight_decay`, `blocks` and `group_as_block`.

    Raises:
        ValueError: no parameter is trainable, the model has no separate attention projections, no 3-D experts or no
            numbered layers, its configuration does not fit their shapes, or blocks are cut in ways that exclude each
            other.
    """
    _check_cuts(rows_as_blocks, layers_as_blocks, model_as_block, heads_as_blocks or experts_as_blocks)
    blocks: dict[str, int] = {}
    if heads_as_blocks:
        blocks |= _heads(model)
    if experts_as_blocks:
        blocks |= _experts(model)
    if rows_as_blocks:
        blocks |= {name: len(param) for name, param in model.named_parameters() if param.dim() > 1}
    together: dict[str, str] = {}  # by the name of a parameter, what it is one block with
    if layers_as_blocks:
        together |= _layers(model)
    if model_as_block:
        together |= {name: "model" for name, _ in model.named_parameters()}

    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        norm_or_bias = param.dim() < 2
        options = (
            1.0 if norm_or_bias and exempt_norms_and_biases else fraction,
            0.0 if norm_or_bias and not decay_norms_and_biases else weight_decay,
            blocks.get(name, 1),
            name in together,
        )
        named = dict(zip(("fraction", "weight_decay", "blocks", "group_as_block"), options, strict=True))
        key = (*options, together.get(name))
        groups.setdefault(key, {"params": [], **named})["params"].append((name, param))
    if not groups:
        raise ValueError("the model has no trainable parameter: set requires_grad on those to be tuned")
    return list(groups.values())


def _check_cuts(rows: bool, layers: bool, model: bool, parts: bool) -> None:
    if sum((rows, layers, model, parts)) > 1:
        raise ValueError(
            "rows_as_blocks, layers_as_blocks, model_as_block, and heads_as_blocks and experts_as_blocks exclude each "
            "other: give one of them"
        )


def _layers(model: nn.Module) -> dict[str, str]:
    """Return the number of the decoder layer of each parameter that is in one, by its name."""
    numbers = {name: re.search(r"(?:^|\.)(\d+)\.", name) for name, _ in model.named_parameters()}
    found = {name: number[1] for name, number in numbers.items() if number}
    if not found:
        raise ValueError("layers_as_blocks: the model has no numbered layers in the names of its parameters")
    return found


def _heads(model: nn.Module) -> dict[str, int]:
    """Return the number of heads in each parameter of the query, key and value projections, by its name."""
    config = _config(model)
    query_heads = config.num_attention_heads
    heads = {
        "num_attention_heads": query_heads,
        "num_key_value_heads": getattr(config, "num_key_value_heads", None) or query_heads,
    }
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // query_heads
    found = {}
    for name, param in model.named_parameters():
        module = name.split(".")[-2] if "." in name else ""
        if module not in PROJECTIONS:
            continue
        found[name] = heads[PROJECTIONS[module]]
        if param.shape[0] != found[name] * head_dim:
            raise ValueError(
                f"{name} of shape {tuple(param.shape)} is not {found[name]} heads of {head_dim} rows, as the model's "
                "configuration says: set `blocks` in a parameter group of your own"
            )
    if not found:
        raise ValueError(
            f"heads_as_blocks: the model has no separate projections ({', '.join(PROJECTIONS)}); fused ones are not cut"
        )
    return found


def _experts(model: nn.Module) -> dict[str, int]:
    """Return the number of experts in each 3-D parameter that holds them, by its name."""
    config = _config(model)
    counts = [getattr(config, key, None) for key in EXPERTS]
    found = {name: len(p) for name, p in model.named_parameters() if _is_experts(p, counts)}
    if not found:
        raise ValueError(
            f"experts_as_blocks: the model has no 3-D parameter with as many experts as its configuration says "
            f"({', '.join(EXPERTS)})"
        )
    return found


def _is_experts(param: Tensor, counts: list[int | None]) -> bool:
    return param.dim() == 3 and param.shape[0] in counts


def _config(model: nn.Module) -> Any:
    """Return the configuration of the language model; that of a multi-modal model holds it as `text_config`."""
    config = getattr(model, "config", None)
    if config is None:
        raise ValueError("heads_as_blocks and experts_as_blocks need a transformers model: this one has no config")
    return getattr(config, "text_config", config)

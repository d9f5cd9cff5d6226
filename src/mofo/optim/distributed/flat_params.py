"""Flat parameters: what DeepSpeed ZeRO and FSDP1 hand to the optimizer in place of the model's tensors.

They lay tensors end to end and cut the row into one piece per process. A piece does not show which entry belongs to
which tensor, so the blocks within which entries compete are lost. FSDP2's `DTensor` keeps them: its shape is that of
the full tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import torch
    from torch import Tensor

OnFlat = Literal["refuse", "per_piece"]


def check_flat(param: Tensor, options: Mapping[str, Any], shapes: Collection[torch.Size]) -> None:
    """Check that a parameter has the entries of one tensor of the model, or that its group allows others.

    Args:
        param: a parameter of the optimizer.
        options: of its group; `on_flat` and `blocks` are read.
        shapes: of the parameters that the optimizer was constructed with. ZeRO 1 and 2 put their pieces in the place
            of these without a mark, but a piece has one of their shapes only by accident. Pieces have one dimension: a
            parameter of more that has a new shape was resized, as embeddings are.

    Raises:
        NotImplementedError: it is flat, and `on_flat` is "refuse".
        ValueError: it is flat, and `blocks` would be cut out of it.
    """
    shape = param.shape
    if is_marked(param):
        what = f"the parameter of shape {tuple(shape)} is a flat piece of several tensors, of DeepSpeed ZeRO 3 or FSDP1"
    elif len(shape) < 2 and shape not in shapes:
        what = (
            f"the optimizer was constructed with no parameter of shape {tuple(shape)}: something, as DeepSpeed ZeRO 1 "
            "and 2 do, has put a flat piece of several tensors in the place of those it was given"
        )
    else:
        return
    if options["on_flat"] == "refuse":
        raise NotImplementedError(
            f"{what}. MoFO would select within that piece and not within each tensor, which is another method. Shard "
            'with FSDP2 (`fully_shard`; `fsdp_version: 2` in accelerate), or accept it with on_flat="per_piece". '
            "(Parameters that you reshape or add yourself: construct the optimizer afterwards, or add_param_group.)"
        )
    if options["blocks"] != 1:
        raise ValueError(f"{what}, out of which blocks={options['blocks']} cannot be cut: use blocks=1 or FSDP2")


def is_marked(param: Tensor) -> bool:
    """Check whether DeepSpeed ZeRO 3 or FSDP1 (with `use_orig_params` or without) marked a parameter as its own."""
    return hasattr(param, "ds_id") or getattr(param, "_fsdp_flattened", False)

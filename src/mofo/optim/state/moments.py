"""The state of a parameter between steps, and how it survives a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from mofo.optim.dtensor import is_dtensor
from mofo.optim.rule.rounding import rounds_at_random
from mofo.optim.state.int8 import as_int8, as_values, int8_zeros, is_int8, quantisation_block

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from mofo.optim.state.int8 import StateDtype

MOMENTS = ("exp_avg", "exp_avg_sq")


def moment_dtype(param: Tensor) -> torch.dtype:
    """Return float32 also for half-precision parameters, as in the official code; float64 for float64."""
    return torch.promote_types(param.dtype, torch.float32)


def step_on_device(step: Tensor, param: Tensor, on_device: bool) -> Tensor:
    """Move the step counter to the CPU, or to the parameter's device when its kernels count the steps; as float32."""
    return step.to(param.device if on_device else "cpu", torch.float32)


def new_state(param: Tensor, state_dtype: StateDtype) -> dict[str, Any]:
    """Make zero moments under AdamW's keys, and a step counter: a float32 scalar on the CPU, as torch has it."""
    state: dict[str, Any] = {"step": torch.tensor(0.0, dtype=torch.float32)}
    block_size = quantisation_block(param) if state_dtype == "int8" else None
    for key in MOMENTS:
        if block_size:
            state[key] = int8_zeros(param, block_size, signed=key == "exp_avg")
        else:
            state[key] = torch.zeros_like(param, dtype=moment_dtype(param), memory_format=torch.preserve_format)
    return state


def needs_seed(group: Mapping[str, Any], param: Tensor) -> bool:
    """Check whether a parameter is updated at random by the options of its group."""
    return group["score"] == "random" or rounds_at_random(group["rounding"], param)


def new_seed(param: Tensor, position: int) -> int:
    """Derive a parameter's random seed from `torch.initial_seed()` and its position in the optimizer.

    torch's generator is not advanced. The seed is a plain integer, because torch casts tensors in a state to the type
    of the parameter. The processes that a parameter is spread over take the least of theirs.
    """
    seed = (torch.initial_seed() + position) % 2**63
    if not is_dtensor(param):
        return seed
    agreed = torch.tensor(seed, device=param.device_mesh.device_type)
    for dim in range(param.device_mesh.ndim):
        dist.all_reduce(agreed, dist.ReduceOp.MIN, group=param.device_mesh.get_group(dim))
    return int(agreed)


def restored_state(param: Tensor, saved: Mapping[str, Any], state_dtype: StateDtype) -> dict[str, Any]:
    """Return a parameter's state out of a checkpoint, with moments of `state_dtype` whatever the parameter's type.

    Raises:
        ValueError: a moment is missing or of another shape than the parameter.
    """
    shape = tuple(param.shape)
    missing = [key for key in ("step", *MOMENTS) if key not in saved]
    if missing:
        raise ValueError(f"the loaded state has no {', '.join(missing)} for a parameter of shape {shape}")
    block_size = quantisation_block(param) if state_dtype == "int8" else None
    state = {"step": torch.as_tensor(saved["step"], dtype=torch.float32, device="cpu").clone()}
    for key in MOMENTS:
        if saved[key].shape != param.shape:
            raise ValueError(f"the loaded {key} has shape {tuple(saved[key].shape)}, its parameter {shape}")
        if block_size:
            state[key] = as_int8(param, saved[key], block_size, signed=key == "exp_avg")
        elif is_int8(saved[key]):
            state[key] = as_values(param, saved[key], moment_dtype(param))
        else:
            moment = saved[key].to(device=param.device, dtype=moment_dtype(param))
            state[key] = sharded_like(moment, param)
    return {**saved, **state}


def sharded_like(moment: Tensor, param: Tensor) -> Tensor:
    """Return a moment as a `DTensor` spread as its parameter is; as it is, if the parameter is not sharded.

    Raises:
        ValueError: the moment is spread otherwise.
    """
    if not is_dtensor(param):
        if is_dtensor(moment):
            raise ValueError("the loaded moments are sharded, their parameter is not: load them with full_tensor()")
        return moment
    if not is_dtensor(moment):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(moment, param.device_mesh, param.placements, src_data_rank=None)
    if (moment.device_mesh, moment.placements) != (param.device_mesh, param.placements):
        raise ValueError(
            f"the loaded moments are spread as {moment.placements} over {moment.device_mesh}, their parameter as "
            f"{param.placements} over {param.device_mesh}: load them with torch.distributed.checkpoint"
        )
    return moment


def restored_group(own: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter group out of a checkpoint; options that an AdamW checkpoint lacks stay as constructed.

    A checkpoint does not decide how steps are made (`foreach`, `fused`, `capturable`, `differentiable`, `on_flat`) nor
    how moments are kept (`state_dtype`): one of a fused AdamW can be loaded, any into 8 bits, and none allows an
    approximation.

    Raises:
        ValueError: the checkpoint is of AMSGrad, whose running maximum MoFO does not have.
    """
    if saved.get("amsgrad"):
        raise ValueError("the loaded state is of AdamW with amsgrad=True, from which MoFO cannot go on")
    computed = ("foreach", "fused", "capturable", "differentiable", "on_flat")
    dropped = ("amsgrad", "decoupled_weight_decay", "state_dtype", *computed)
    return {**own, **{key: value for key, value in saved.items() if key not in dropped}}

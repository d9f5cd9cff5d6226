"""What the optimizer remembers of a parameter, and how that survives a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")


def moment_dtype(param: Tensor) -> torch.dtype:
    """Moments are float32 also for half-precision parameters, as in the official code; float64 for float64."""
    return torch.promote_types(param.dtype, torch.float32)


def step_on_device(step: Tensor, param: Tensor, on_device: bool) -> Tensor:
    """The count of steps where it belongs: on the CPU, or with the parameter where the host is not to know of it."""
    return step.to(param.device if on_device else "cpu")


def new_state(param: Tensor) -> dict[str, Any]:
    """Zero moments under AdamW's keys; the step is a float32 scalar on the CPU, as torch has it."""
    state: dict[str, Any] = {"step": torch.tensor(0.0, dtype=torch.float32)}
    for key in MOMENTS:
        state[key] = torch.zeros_like(param, dtype=moment_dtype(param), memory_format=torch.preserve_format)
    return state


def new_seed(position: int) -> int:
    """A seed for what is random: from torch's seed, which is read but not moved, and the parameter's place.

    It is a plain integer: torch casts tensors in a state to the type of the parameter.
    """
    return (torch.initial_seed() + position) % 2**63


def restored_state(param: Tensor, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The state of ``param`` out of a checkpoint, moments in their own type and not cast to the parameter's.

    Raises:
        ValueError: a moment is missing or of another shape than the parameter.
    """
    shape = tuple(param.shape)
    missing = [key for key in ("step", *MOMENTS) if key not in saved]
    if missing:
        raise ValueError(f"the loaded state has no {', '.join(missing)} for a parameter of shape {shape}")
    state = {"step": torch.as_tensor(saved["step"], dtype=torch.float32, device="cpu").clone()}
    for key in MOMENTS:
        if saved[key].shape != param.shape:
            raise ValueError(f"the loaded {key} has shape {tuple(saved[key].shape)}, its parameter {shape}")
        state[key] = saved[key].to(device=param.device, dtype=moment_dtype(param))
    return {**saved, **state}


def restored_group(own: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter group out of a checkpoint; what an AdamW checkpoint does not say stays as it was constructed.

    How the step is computed (``foreach``, ``fused``, ``capturable``, ``differentiable``) is not for a checkpoint
    to say, so that one of a fused AdamW can be loaded.

    Raises:
        ValueError: the checkpoint is of AMSGrad, whose running maximum MoFO does not have.
    """
    if saved.get("amsgrad"):
        raise ValueError("the loaded state is of AdamW with amsgrad=True, from which MoFO cannot go on")
    computed = ("foreach", "fused", "capturable", "differentiable")
    dropped = ("amsgrad", "decoupled_weight_decay", *computed)
    return {**own, **{key: value for key, value in saved.items() if key not in dropped}}

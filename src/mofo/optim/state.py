"""What the optimizer remembers of a parameter, and how that survives a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")


def moment_dtype(param: Tensor) -> torch.dtype:
    """Moments are float32 also for half-precision parameters, as in the official code; float64 for float64."""
    return torch.promote_types(param.dtype, torch.float32)


def new_state(param: Tensor) -> dict[str, Any]:
    """Zero moments under the keys of AdamW; the step is a float32 scalar on the CPU, as torch has it."""
    state: dict[str, Any] = {"step": torch.tensor(0.0, dtype=torch.float32)}
    for key in MOMENTS:
        state[key] = torch.zeros_like(param, dtype=moment_dtype(param), memory_format=torch.preserve_format)
    return state


def restored_state(param: Tensor, saved: dict[str, Any]) -> dict[str, Any]:
    """The state of ``param`` out of a checkpoint, without the cast to the parameter's type that torch makes.

    Raises:
        ValueError: a moment is missing or has another shape than the parameter, or the checkpoint is of
            AMSGrad, whose running maximum this optimizer does not have.
    """
    if "max_exp_avg_sq" in saved:
        raise ValueError("the checkpoint is of AdamW with amsgrad=True, which MoFO does not have: it cannot go on from it")
    missing = [key for key in ("step", *MOMENTS) if key not in saved]
    if missing:
        raise ValueError(f"the checkpoint lacks {missing} for a parameter of shape {tuple(param.shape)}")
    state = dict(saved)
    state["step"] = torch.as_tensor(saved["step"], dtype=torch.float32, device="cpu").clone()
    for key in MOMENTS:
        if saved[key].shape != param.shape:
            raise ValueError(
                f"the checkpoint's {key} has shape {tuple(saved[key].shape)}, its parameter {tuple(param.shape)}"
            )
        state[key] = saved[key].to(device=param.device, dtype=moment_dtype(param))
    return state

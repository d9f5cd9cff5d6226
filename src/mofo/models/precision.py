"""Where a model computes, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def compute_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(wanted: str) -> str:
    """Return the precision to compute in on this machine: `float32` or `bfloat16`.

    Args:
        wanted: `float32`, `bfloat16` or `auto`, which is bfloat16 where the hardware multiplies it natively and
            float32 elsewhere.
    """
    if wanted != "auto":
        return wanted
    if compute_device().type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    # torch has no public name for what a CPU can do.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if native else "float32"


def autocast(precision: str) -> AbstractContextManager[object]:
    """Return the context in which a float32 model computes in the precision `float32` or `bfloat16`."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(compute_device().type, torch.bfloat16)

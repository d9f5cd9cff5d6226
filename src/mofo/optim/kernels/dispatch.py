"""Which back end computes a step: the native library, Triton, or plain torch."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import warnings
from typing import TYPE_CHECKING, Any

from mofo.optim.kernels.cpu import library as native

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


TRITON_DEVICES = ("cuda", "xpu")  # NVIDIA's and AMD's, and Intel's
NO_TRITON = "Triton is not installed: pip install triton (on Intel GPUs: triton-xpu)"


def backends() -> dict[str, str]:
    """What computes a step by default, for each kind of device; if it is not the fastest there is, with the reason.

    Example:
        >>> backends()
        {'cpu': "native (avx512, on torch's threads)", 'gpu': 'triton 3.9.0', 'other': 'plain torch'}
    """
    library = native.load()
    cpu = f"plain torch: {library}" if isinstance(library, str) else str(library)
    return {"cpu": cpu, "gpu": _triton_version() or f"plain torch: {NO_TRITON}", "other": "plain torch"}


def check_fused(param: Tensor, *others: Tensor) -> None:
    """Check that there is a fused back end for a parameter, alone or with its gradient and moments.

    Raises:
        RuntimeError: there is none, or it cannot update it.
    """
    on_gpu = param.device.type in TRITON_DEVICES
    library = native.load()
    if on_gpu and _triton_version() is None:
        raise RuntimeError(f"fused=True needs Triton on {param.device.type}: {NO_TRITON}; or leave it out")
    if not on_gpu and isinstance(library, str):
        raise RuntimeError(f"fused=True needs the native CPU library: {library}; leave it out to use plain torch")
    if not (_triton_serves if on_gpu else native.serves)(param, *others):
        where = "contiguous, on a GPU" if on_gpu else "on a CPU whose entries do not overlap"
        raise RuntimeError(
            f"fused=True updates float32, bfloat16 and float16 parameters {where}, with such gradients and float32 "
            f"moments, got {_kinds(param, *others)} of shape {tuple(param.shape)}: leave it out to use plain torch"
        )


def check_capturable(param: Tensor, *others: Tensor) -> None:
    """Check that a step can be captured in a CUDA graph.

    Raises:
        NotImplementedError: only Triton's kernels can, and they cannot update this parameter.
    """
    if param.device.type not in TRITON_DEVICES or _triton_version() is None or not _triton_serves(param, *others):
        raise NotImplementedError(
            "capturable=True is not supported in plain torch and on a CPU: how many entries are looked at depends on "
            "their values, so a step cannot be recorded in a graph. It needs Triton and contiguous float32, bfloat16 "
            f"or float16 parameters on a GPU, got {_kinds(param, *others)} of shape {tuple(param.shape)}"
        )


def uses_triton(group: Mapping[str, Any], operands: tuple[Tensor, ...]) -> bool:
    """Whether Triton's kernels update this parameter, given with its gradient and moments.

    Raises:
        RuntimeError: ``fused=True`` wants them, and they cannot.
        NotImplementedError: ``capturable=True`` wants them, and they cannot.
    """
    if group["capturable"]:
        check_capturable(*operands)
    if operands[0].device.type not in TRITON_DEVICES:
        return False
    if group["fused"]:
        check_fused(*operands)
        return True
    if group["fused"] is False or group["foreach"] is not None or _triton_version() is None:
        return False
    return _triton_serves(*operands)


def uses_native(group: Mapping[str, Any], operands: tuple[Tensor, ...]) -> bool:
    """Whether the native library updates this parameter, given with its gradient and moments.

    Raises:
        RuntimeError: ``fused=True`` wants it, and it cannot.
    """
    if group["fused"]:
        check_fused(*operands)
        return True
    if group["fused"] is False or group["foreach"] is not None or not native.serves(*operands):
        return False
    library = native.load()
    if isinstance(library, str):
        _warn_once(library)
        return False
    return True


def _triton_serves(*operands: Tensor) -> bool:
    from mofo.optim.kernels.triton.launch import serves  # imports Triton, which is slow

    return serves(*operands)


@functools.cache
def _triton_version() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return None
    return f"triton {importlib.metadata.version('triton')}"


def _kinds(*operands: Tensor) -> str:
    return ", ".join(dict.fromkeys(f"{operand.dtype} on {operand.device}" for operand in operands))


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"MoFO's steps on a CPU are several times slower than they could be: {reason}", stacklevel=2)

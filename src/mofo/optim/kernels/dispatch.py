"""Which back end updates a tensor: the native library, Triton, or plain torch."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import warnings
from typing import TYPE_CHECKING

from mofo.optim.kernels.cpu import library

if TYPE_CHECKING:
    from torch import Tensor

    from mofo.optim.kernels import Execution

TRITON_DEVICES = ("cuda", "xpu")  # NVIDIA's and AMD's, and Intel's
NO_TRITON = "Triton is not installed: pip install triton (on Intel GPUs: triton-xpu)"


def backends() -> dict[str, str]:
    """Return what computes a step by default on each type of device, with the reason where it is not the fastest.

    Examples:
        >>> backends()
        {'cpu': "native (avx512, on torch's threads)", 'gpu': 'triton 3.9.0', 'other': 'plain torch'}
    """
    native = library.load()
    cpu = f"plain torch: {native}" if isinstance(native, str) else str(native)
    return {"cpu": cpu, "gpu": triton_version() or f"plain torch: {NO_TRITON}", "other": "plain torch"}


@functools.cache
def triton_version() -> str | None:
    """Return the name and version of the installed Triton, or None."""
    if importlib.util.find_spec("triton") is None:
        return None
    return f"triton {importlib.metadata.version('triton')}"


def check_fused(param: Tensor, *others: Tensor) -> None:
    """Check that a fused back end can update a parameter, given alone or with its gradient and moments.

    Raises:
        RuntimeError: it cannot, or there is none.
    """
    on_gpu = param.device.type in TRITON_DEVICES
    native = library.load()
    if on_gpu and triton_version() is None:
        raise RuntimeError(f"fused=True needs Triton on {param.device.type}: {NO_TRITON}; or leave it out")
    if not on_gpu and isinstance(native, str):
        raise RuntimeError(f"fused=True needs the native CPU library: {native}; leave it out to use plain torch")
    if not (_triton_can_update if on_gpu else library.can_update)(param, *others):
        where = "contiguous, on a GPU" if on_gpu else "on a CPU whose entries do not overlap"
        raise RuntimeError(
            f"fused=True updates float32, bfloat16 and float16 parameters {where}, with such gradients and float32 "
            f"moments, got {_types(param, *others)} of shape {tuple(param.shape)}: leave it out to use plain torch"
        )


def check_capturable(param: Tensor, *others: Tensor) -> None:
    """Check that a step of a parameter, given alone or with its gradient and moments, can be captured in a CUDA graph.

    Raises:
        NotImplementedError: it cannot, because only Triton's kernels can be captured and they do not serve it.
    """
    if param.device.type not in TRITON_DEVICES or triton_version() is None or not _triton_can_update(param, *others):
        raise NotImplementedError(
            "capturable=True is not supported in plain torch and on a CPU: how many entries are looked at depends on "
            "their values, so a step cannot be recorded in a graph. It needs Triton and contiguous float32, bfloat16 "
            f"or float16 parameters on a GPU, got {_types(param, *others)} of shape {tuple(param.shape)}"
        )


def uses_triton(execution: Execution, *tensors: Tensor) -> bool:
    """Check whether Triton's kernels update a parameter, given with its gradient and moments.

    Raises:
        RuntimeError: `fused=True` insists on them, and they cannot.
        NotImplementedError: `capturable=True` insists on them, and they cannot.
    """
    if execution.capturable:
        check_capturable(*tensors)
    if tensors[0].device.type not in TRITON_DEVICES:
        return False
    if execution.fused:
        check_fused(*tensors)
        return True
    if execution.fused is False or execution.foreach is not None or triton_version() is None:
        return False
    return _triton_can_update(*tensors)


def uses_triton_for_shards(execution: Execution, entries: int, *tensors: Tensor) -> bool:
    """Check whether Triton's kernels update the shards of a tensor; the same for all processes that have one.

    Args:
        execution: how the group wants its steps made.
        entries: the largest number that a process has of them.
        tensors: local parameter, gradient and moments. What is not contiguous is copied.
    """
    if tensors[0].device.type not in TRITON_DEVICES or triton_version() is None:
        return False
    if not execution.fused and (execution.fused is False or execution.foreach is not None):
        return False
    from mofo.optim.kernels.triton.launch import MAX_ENTRIES, can_read  # imports Triton, which is slow

    return entries <= MAX_ENTRIES and can_read(*tensors)


def uses_native(execution: Execution, *tensors: Tensor) -> bool:
    """Check whether the native library updates a parameter, given with its gradient and moments.

    Raises:
        RuntimeError: `fused=True` insists on it, and it cannot.
    """
    if execution.fused:
        check_fused(*tensors)
        return True
    if execution.fused is False or execution.foreach is not None or not library.can_update(*tensors):
        return False
    native = library.load()
    if isinstance(native, str):
        _warn_once(native)
        return False
    return True


def _triton_can_update(*tensors: Tensor) -> bool:
    from mofo.optim.kernels.triton.launch import can_update  # imports Triton, which is slow

    return can_update(*tensors)


def _types(*tensors: Tensor) -> str:
    return ", ".join(dict.fromkeys(f"{tensor.dtype} on {tensor.device}" for tensor in tensors))


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"MoFO's steps on a CPU are several times slower than they could be: {reason}", stacklevel=2)

"""Which back end computes a step: the native library, or plain torch."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

from mofo.optim.kernels import native

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def backends() -> dict[str, str]:
    """What computes a step by default, for each kind of device; if it is not the fastest there is, with the reason.

    Example:
        >>> backends()
        {'cpu': "native (avx512, on torch's threads)", 'other': 'plain torch'}
    """
    library = native.load()
    cpu = f"plain torch: {library}" if isinstance(library, str) else str(library)
    return {"cpu": cpu, "other": "plain torch"}


def check_fused(param: Tensor, *others: Tensor) -> None:
    """Check that the native library is there and can update a parameter, alone or with its gradient and moments.

    Raises:
        RuntimeError: it is not, or cannot.
    """
    library = native.load()
    if isinstance(library, str):
        raise RuntimeError(f"fused=True needs the native CPU library: {library}; leave it out to use plain torch")
    if not native.serves(param, *others):
        raise RuntimeError(
            "fused=True updates float32, bfloat16 and float16 parameters on a CPU whose entries do not overlap, with "
            f"such gradients and float32 moments, got {_kinds(param, *others)} of shape {tuple(param.shape)}: leave it "
            "out to use plain torch"
        )


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


def _kinds(*operands: Tensor) -> str:
    return ", ".join(dict.fromkeys(f"{operand.dtype} on {operand.device}" for operand in operands))


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"MoFO's steps on a CPU are several times slower than they could be: {reason}", stacklevel=2)

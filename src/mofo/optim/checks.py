"""Validation: every check runs before the first write."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any, get_args

import torch

from mofo.optim.distributed.flat_params import OnFlat
from mofo.optim.dtensor import is_dtensor
from mofo.optim.rule.blocks import block_size
from mofo.optim.rule.types import Decay, Rounding, Score
from mofo.optim.state.int8 import StateDtype, check_torchao, quantisation_block

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

CHOICES = {
    "score": get_args(Score),
    "decay": get_args(Decay),
    "rounding": get_args(Rounding),
    "state_dtype": get_args(StateDtype),
    "on_flat": get_args(OnFlat),
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_options(options: Mapping[str, Any]) -> None:
    """Check the options of one parameter group.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is outside its range, or NaN.
        RuntimeError: two options exclude each other.
        NotImplementedError: an option of torch's AdamW that MoFO does not have.
        ImportError: `state_dtype="int8"` without torchao.
    """
    lr, betas = options["lr"], options["betas"]
    if isinstance(lr, torch.Tensor) and lr.numel() != 1:
        raise ValueError(f"lr as a tensor must have one element, got shape {tuple(lr.shape)}")
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise TypeError(f"betas must be two numbers, got {betas!r}")
    if not isinstance(lr, torch.Tensor) or lr.is_cpu:  # one on a device is read there, and not waited for
        _check_number("lr", float(lr) if isinstance(lr, torch.Tensor) else lr, "at least 0", _is_finite)
    _check_number("fraction", options["fraction"], "in (0, 1]; 1 is AdamW", lambda x: 0 < x <= 1)
    _check_number("betas[0]", betas[0], "in [0, 1)", lambda x: 0 <= x < 1)
    _check_number("betas[1]", betas[1], "in [0, 1)", lambda x: 0 <= x < 1)
    _check_number("eps", options["eps"], "at least 0", _is_finite)
    _check_number("weight_decay", options["weight_decay"], "at least 0", _is_finite)
    if not isinstance(options["blocks"], int) or isinstance(options["blocks"], bool):
        raise TypeError(f"blocks must be an integer, got {options['blocks']!r}")
    _check_number("blocks", options["blocks"], "at least 1", lambda x: x >= 1)
    if not isinstance(options["group_as_block"], bool):
        raise TypeError(f"group_as_block must be True or False, got {options['group_as_block']!r}")
    if options["group_as_block"]:
        _check_group_as_block(options)
    for name, choices in CHOICES.items():
        if options[name] not in choices:
            raise ValueError(f"{name} must be one of {choices}, got {options[name]!r}")
    if options["state_dtype"] == "int8":
        check_torchao()
    _check_back_end(options)


def check_together(params: Sequence[Tensor]) -> None:
    """Check that the parameters of a group can be one block.

    Raises:
        NotImplementedError: one of them is spread over processes, or they are on several devices.
    """
    if any(is_dtensor(param) for param in params):
        raise NotImplementedError(
            "group_as_block=True selects from several tensors at once, which parameters that are spread over processes "
            "(DTensor) do not support: leave it out, or train in one process"
        )
    devices = sorted({str(param.device) for param in params})
    if len(devices) > 1:
        raise NotImplementedError(
            f"group_as_block=True needs the parameters of a group on one device, got {', '.join(devices)}: make a "
            "group for each"
        )


def check_param(param: Tensor, blocks: int, state_dtype: StateDtype) -> None:
    """Check that a parameter can be cut into blocks and updated in place.

    Raises:
        TypeError: its type is not float16, bfloat16, float32 or float64, or it is float64 and `state_dtype` is "int8".
        NotImplementedError: it is sharded within a quantisation block.
        RuntimeError: several of its entries share one memory location.
        ValueError: `blocks` does not divide its first dimension.
    """
    if param.dtype not in DTYPES:
        raise TypeError(f"MoFO updates real floating-point parameters, got {param.dtype} of shape {tuple(param.shape)}")
    if not param.is_contiguous() and 0 in (
        stride for stride, size in zip(param.stride(), param.shape, strict=True) if size > 1
    ):
        raise RuntimeError(
            f"several entries of the parameter of shape {tuple(param.shape)} share one memory location (expanded "
            "tensor): clone() it before giving it to the optimizer"
        )
    block_size(param, blocks)
    if state_dtype == "int8":
        if param.dtype is torch.float64:
            raise TypeError(
                f"state_dtype='int8' computes in float32, got a float64 parameter of shape {tuple(param.shape)}: use "
                "state_dtype='float32', which keeps float64 moments for it"
            )
        quantisation_block(param)


def check_state(param: Tensor, state: Mapping[str, Any]) -> None:
    """Check that the moments of a parameter, if it has any, have its shape.

    Raises:
        ValueError: they have another.
    """
    moment = state.get("exp_avg")
    if moment is not None and moment.shape != param.shape:
        raise ValueError(
            f"a parameter has the shape {tuple(param.shape)} and its moments {tuple(moment.shape)}: it was resized "
            "after its first step; construct the optimizer afterwards"
        )


def check_rounding(param: Tensor, rounding: Rounding) -> None:
    """Check that new values of a parameter can be rounded in this way.

    Raises:
        TypeError: the parameter is float16, and `rounding` is "stochastic".
    """
    if rounding == "stochastic" and param.dtype is torch.float16:
        raise TypeError(
            f"rounding='stochastic' is for bfloat16 parameters, got float16 of shape {tuple(param.shape)}: make it "
            "bfloat16, or choose rounding='nearest'"
        )


def check_grad(grad: Tensor) -> None:
    """Check that a gradient is dense. Its type is that of its parameter, as torch makes it.

    Raises:
        RuntimeError: it is sparse.
    """
    if grad.layout is not torch.strided:
        raise RuntimeError(f"MoFO does not support sparse gradients ({grad.layout}): use sparse=False in the embedding")


def _check_group_as_block(options: Mapping[str, Any]) -> None:
    if options["blocks"] != 1:
        raise ValueError(
            f"group_as_block=True makes one block of the group, and blocks={options['blocks']} cuts its tensors: give "
            "one of them"
        )
    for name, value in (("fused", True), ("capturable", True), ("state_dtype", "int8"), ("on_flat", "per_piece")):
        if options[name] == value:
            raise NotImplementedError(
                f"group_as_block=True is computed in plain torch on whole tensors with float32 moments and does not "
                f"support {name}={value!r}: leave one of them out"
            )


def _check_back_end(options: Mapping[str, Any]) -> None:
    if options["fused"] and options["foreach"]:
        raise RuntimeError("fused and foreach cannot be True together")
    if options["capturable"] and (options["foreach"] or options["fused"] is False):
        raise RuntimeError("capturable=True needs the fused back end: leave foreach and fused out")
    if options["differentiable"]:
        raise NotImplementedError(
            "differentiable=True is not supported: which entries are selected does not change smoothly with the "
            "gradient, so a derivative through the step would miss the filter"
        )


def _check_number(name: str, value: object, expected: str, holds: Callable[[Any], bool]) -> None:
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, {expected}; got {value!r}")
    if not holds(value):
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def _is_finite(x: float) -> bool:
    return 0 <= x < math.inf

"""Moments in 8 bits: how they are kept, and how a step reads and writes them.

They are kept as torchao's `OptimState8bit`: a code of one byte for each entry and a float32 scale for each quantisation
block, the dynamic map of Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (arXiv 2110.02861). A step
works on float32 values: `dequantise` reads a moment, `quantise_` writes it. Both also take moments that are not in
8 bits, and the `DTensor` of a sharded parameter, of which they see the local shard. Where the native library makes the
whole step, it reads and writes the codes by itself, a few entries at a time.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from typing import TYPE_CHECKING, Any, Literal

import torch

from mofo.optim.dtensor import is_dtensor, local
from mofo.optim.kernels.cpu import int8 as native
from mofo.optim.kernels.plain import int8 as plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from torchao.optim.subclass_8bit import OptimState8bit
    from typing_extensions import TypeIs

    from mofo.optim.rule.types import Operands

StateDtype = Literal["float32", "int8"]

SUBCLASS = "torchao.optim.subclass_8bit"  # module of the class of such moments; before it is imported there are none
# Entries of a quantisation block; smaller ones would spend more than half a bit an entry on scales.
LARGEST_BLOCK, SMALLEST_BLOCK = 256, 64
SMALLEST_TENSOR = 4096  # entries; below it bytes saved are not worth the error, as in torchao and bitsandbytes


def check_torchao() -> None:
    """Check that torchao, whose class keeps moments in 8 bits, is installed.

    Raises:
        ImportError: it is not.
    """
    try:
        moment_class()
    except ImportError as error:
        raise ImportError(f"state_dtype='int8' needs torchao ({error}): pip install 'mofo[int8]'") from error


def quantisation_block(param: Tensor) -> int | None:
    """Return the size of the quantisation blocks of a parameter's moments, in entries; None if they stay float32.

    Quantisation blocks lie within the rows (the entries of one index of the first dimension): the largest power of two
    up to 256 that divides them. So FSDP2, which shards the first dimension, cuts none, and the number of ranks changes
    neither what is quantised nor any value. Tensors of fewer than 4096 entries, and those whose rows 64 does not divide
    (all vectors, convolutions with small kernels), stay float32.

    Raises:
        NotImplementedError: the parameter is sharded within its rows, and a shard cuts a quantisation block.
    """
    entries = param.numel()  # of a DTensor: of all shards
    if entries < SMALLEST_TENSOR or param.dim() < 2:
        return None
    size = math.gcd(entries // param.shape[0], LARGEST_BLOCK)
    if size < SMALLEST_BLOCK:
        return None
    _check_shards_hold_blocks(param, size)
    return size


def int8_zeros(param: Tensor, block_size: int, *, signed: bool) -> Tensor:
    """Make a moment of zeros in 8 bits for a parameter; a `DTensor` if the parameter is one.

    Args:
        param: the parameter.
        block_size: its `quantisation_block`.
        signed: whether values can be negative: those of the first moment can, those of the second cannot.
    """
    shard = local(param)
    if shard.numel():
        zeros: Tensor = moment_class().zeros(shard.shape, signed, block_size, shard.device, dtype=torch.float32)
    else:
        zeros = torch.zeros_like(shard, dtype=torch.float32)  # a rank without a share of the tensor
    return _sharded_like(param, zeros)


def is_int8(moment: Tensor) -> bool:
    """Check whether a moment is kept in 8 bits; of a `DTensor`, whether its local shard is."""
    return _is_int8(local(moment))


def has_int8_moments(param: Tensor, exp_avg: Tensor, state_dtype: StateDtype) -> bool:
    """Check whether a parameter's moments are kept in 8 bits, with the same answer in all processes.

    In a process that has no entry of a sharded parameter they are empty and float32, so that its shape decides.
    """
    if SUBCLASS not in sys.modules:
        return False
    if is_dtensor(param) and local(param).numel() == 0:
        return state_dtype == "int8" and quantisation_block(param) is not None
    return is_int8(exp_avg)


def dequantise(moment: Tensor) -> Tensor:
    """Return a moment's values as a plain local tensor: new and float32 if it is in 8 bits, else its own memory."""
    moment = local(moment)
    if not _is_int8(moment):
        return moment
    values = torch.empty(moment.shape, dtype=torch.float32, device=moment.device)
    (native if native.serves(moment) else plain).dequantise(moment, values)
    return values


def quantise_(moment: Tensor, values: Tensor) -> None:
    """Set a moment in place to `values`, which `dequantise` returned and a step has changed.

    The codes and scales are those of torchao's `moment.copy_(values)`, bit for bit. A NaN or infinity makes its whole
    quantisation block NaN.
    """
    moment = local(moment)
    if not _is_int8(moment):
        return  # the values are its own memory
    (native if native.serves(moment) else plain).quantise(moment, values.contiguous())


@contextlib.contextmanager
def float32_moments(operands: Operands) -> Iterator[Operands]:
    """Widen the moments of a tensor from 8 bits to float32, and at the end narrow what they have become."""
    m, v = dequantise(operands.exp_avg), dequantise(operands.exp_avg_sq)
    yield operands._replace(exp_avg=m, exp_avg_sq=v)
    quantise_(operands.exp_avg, m)
    quantise_(operands.exp_avg_sq, v)


def as_int8(param: Tensor, saved: Tensor, block_size: int, *, signed: bool) -> Tensor:
    """Return a moment out of a checkpoint in 8 bits: the same codes if it was so, else its values rounded.

    Args:
        param: the parameter.
        saved: its moment in the checkpoint.
        block_size: its `quantisation_block`.
        signed: whether values can be negative.

    Raises:
        ValueError: the saved moment is sharded otherwise than the parameter.
    """
    moment = int8_zeros(param, block_size, signed=signed)
    target, source = _same_shards(param, moment, saved)
    if _is_int8(source) and (source.block_size, source.signed) == (block_size, signed):
        target.copy_(source)
    else:
        quantise_(target, dequantise(source).to(target.device, torch.float32))
    return moment


def as_values(param: Tensor, saved: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a moment out of a checkpoint in 8 bits as a tensor of `dtype`; the values are exact.

    Raises:
        ValueError: the saved moment is sharded otherwise than the parameter.
    """
    moment = torch.zeros_like(param, dtype=dtype)
    target, source = _same_shards(param, moment, saved)
    target.copy_(dequantise(source))
    return moment


@functools.cache
def moment_class() -> type[OptimState8bit]:
    """Return torchao's class, taught to be cloned: `copy.deepcopy` of an optimizer clones its state."""
    from torchao.optim.subclass_8bit import OptimState8bit

    @OptimState8bit.implements(torch.ops.aten.clone.default)  # type: ignore[untyped-decorator]
    def clone(func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        state = args[0]
        copies = (state.codes.clone(), state.scale.clone(), state.qmap.clone())
        return OptimState8bit(*copies, state.signed, dtype=state.dtype)

    moment_class: type[OptimState8bit] = OptimState8bit
    return moment_class


def _is_int8(moment: Tensor) -> TypeIs[OptimState8bit]:
    module = sys.modules.get(SUBCLASS)
    return module is not None and isinstance(moment, module.OptimState8bit)


def _sharded_like(param: Tensor, shard: Tensor) -> Tensor:
    """Return a local tensor as the shard of a `DTensor` spread as the parameter is; itself if that is not sharded."""
    if not is_dtensor(param):
        return shard
    from torch.distributed.tensor import DTensor

    made = DTensor.from_local(
        shard, param.device_mesh, param.placements, run_check=False, shape=param.shape, stride=param.stride()
    )
    # from_local moves the shard to the mesh's device; a parameter offloaded by FSDP2 is not there
    return made if made.device == param.device else made.to(param.device)


def _same_shards(param: Tensor, moment: Tensor, saved: Tensor) -> tuple[Tensor, Tensor]:
    """Return the local shards of a new and of a saved moment, and check that they have one shape."""
    target, source = local(moment), local(saved)
    if target.shape != source.shape:
        raise ValueError(
            f"the loaded moment of a parameter of shape {tuple(param.shape)} has {tuple(source.shape)} of it on this "
            f"rank, the parameter {tuple(target.shape)}: load it with torch.distributed.checkpoint"
        )
    return target, source


def _check_shards_hold_blocks(param: Tensor, block_size: int) -> None:
    if not is_dtensor(param):
        return
    sizes = list(param.shape)
    for axis, placement in enumerate(param.placements):
        dim: int = getattr(placement, "dim", 0)  # replicas have none
        if dim > 0:
            sizes[dim] = -(-sizes[dim] // param.device_mesh.size(axis))
            if sizes[dim] * math.prod(sizes[dim + 1 :]) % block_size:
                raise NotImplementedError(
                    f"the parameter of shape {tuple(param.shape)} is sharded along dimension {dim} into pieces of "
                    f"{sizes[dim]}, which cut its quantisation blocks of {block_size} entries: put it into a parameter "
                    "group with state_dtype='float32', or shard it along the first dimension"
                )

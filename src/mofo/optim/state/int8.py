"""Moments in 8 bits: how they are kept, and how a step reads and writes them.

They are kept as torchao's ``OptimState8bit``: a code of one byte for each entry and a float32 scale for each
quantisation block, the dynamic map of Dettmers et al., "8-bit Optimizers via Block-wise Quantization" (arXiv
2110.02861). A step works on float32 values: :func:`dequantise` reads a moment, :func:`quantise_` writes it. Both also
take moments that are not quantised, and the ``DTensor`` of a sharded parameter, of which they see the local shard.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from typing import TYPE_CHECKING, Any, Literal

import torch

from mofo.optim.dtensor import is_dtensor, local

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

State = Literal["float32", "int8"]

LARGEST_BLOCK, SMALLEST_BLOCK = 256, 64  # entries; smaller ones would spend more than half a bit an entry on scales
SMALLEST_TENSOR = 4096  # entries; below it bytes saved are not worth the error, as in torchao and bitsandbytes
PIECE = {"cpu": 1 << 16}  # entries quantised at a time: on a CPU they stay in the cache,
PIECE_ELSEWHERE = 1 << 24  # elsewhere each piece costs kernel launches


def check_torchao() -> None:
    """Check that the library is there that keeps moments in 8 bits.

    Raises:
        ImportError: it is not.
    """
    try:
        _moment_class()
    except ImportError as error:
        raise ImportError(f"state='int8' needs torchao ({error}): pip install 'mofo[int8]'") from error


def quantisation_block(param: Tensor) -> int | None:
    """Entries in each quantisation block of a moment of ``param``; None if its moments stay float32.

    Blocks lie within the rows (the entries of one index of the first dimension): the largest power of two up to 256
    that divides them. So a shard along the first dimension, as FSDP2 cuts, holds whole blocks, and how many ranks
    there are changes neither what is quantised nor any value. Tensors of fewer than 4096 entries, and those whose rows
    64 does not divide (all vectors, convolutions with small kernels), stay float32.

    Raises:
        NotImplementedError: the parameter is sharded within its rows, and a shard cuts a block.
    """
    entries = param.numel()  # of a DTensor: of all shards
    if entries < SMALLEST_TENSOR or param.dim() < 2:
        return None
    block = math.gcd(entries // param.shape[0], LARGEST_BLOCK)
    if block < SMALLEST_BLOCK:
        return None
    _check_shards_hold_blocks(param, block)
    return block


def quantised_zeros(param: Tensor, block: int, *, signed: bool) -> Tensor:
    """A moment of zeros for ``param``, in 8 bits; a ``DTensor`` if the parameter is.

    Args:
        param: the parameter.
        block: :func:`quantisation_block` of it.
        signed: whether values can be negative: those of the first moment, not of the second.
    """
    shard = local(param)
    if shard.numel():
        zeros = _moment_class().zeros(shard.shape, signed, block, shard.device, dtype=torch.float32)
    else:
        zeros = torch.zeros_like(shard, dtype=torch.float32)  # a rank without a share of the tensor
    return _sharded_like(param, zeros)


def is_quantised(moment: Tensor) -> bool:
    """Whether a moment is kept in 8 bits; of a ``DTensor``, whether its local shard is."""
    module = sys.modules.get("torchao.optim.subclass_8bit")  # without it there is no such moment
    return module is not None and isinstance(local(moment), module.OptimState8bit)


def dequantise(moment: Tensor) -> Tensor:
    """A moment's values as a plain local tensor: new and float32 if it is quantised, else its own memory."""
    moment = local(moment)
    if not is_quantised(moment):
        return moment
    state: Any = moment
    values = torch.empty(state.shape, dtype=torch.float32, device=state.device)
    flat, codes = values.view(-1), state.codes.view(-1)
    for piece, scales in _pieces(state):
        found = state.qmap.index_select(0, codes[piece].int())
        torch.mul(_blocks(found, state), state.scale[scales, None], out=_blocks(flat[piece], state))
    return values


def quantise_(moment: Tensor, values: Tensor) -> None:
    """Set a moment to ``values``, which :func:`dequantise` gave and a step has changed; works in place.

    The codes and scales are those of torchao's ``moment.copy_(values)``, bit for bit, on a CPU in about a tenth of its
    time, and with less temporary memory. A NaN or infinity makes its whole quantisation block NaN.
    """
    moment = local(moment)
    if not is_quantised(moment):
        return  # the values are its own memory
    state: Any = moment
    cells, bounds = _tables(state.signed, state.device)
    flat, codes = values.reshape(-1), state.codes.view(-1)
    for piece, scales in _pieces(state):
        part = _blocks(flat[piece], state)
        scale = part.abs().amax(1).clip_(min=1e-12)
        part = (part / scale[:, None]).view(-1)
        code = cells.index_select(0, (part.view(torch.int32) >> 16).add_(1 << 15))
        codes[piece] = code.add_(part >= bounds.index_select(0, code.int()))
        state.scale[scales] = scale


@contextlib.contextmanager
def float32_moments(tensors: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The tuple of tensors of a step with its quantised moments as float32; what they become is quantised again."""
    param, grad, exp_avg, exp_avg_sq, *rest = tensors
    m, v = dequantise(exp_avg), dequantise(exp_avg_sq)
    yield param, grad, m, v, *rest
    quantise_(exp_avg, m)
    quantise_(exp_avg_sq, v)


def as_quantised(param: Tensor, saved: Tensor, block: int, *, signed: bool) -> Tensor:
    """A moment out of a checkpoint as one in 8 bits: the same codes if it was one, else its values are rounded.

    Raises:
        ValueError: it is sharded otherwise than ``param``.
    """
    moment = quantised_zeros(param, block, signed=signed)
    target, source = _same_shards(param, moment, saved)
    if is_quantised(source) and source.block_size == target.block_size and source.signed == target.signed:
        target.copy_(source)
    else:
        quantise_(target, dequantise(source).to(target.device, torch.float32))
    return moment


def as_values(param: Tensor, saved: Tensor, dtype: torch.dtype) -> Tensor:
    """A quantised moment out of a checkpoint as a tensor of ``dtype``; the values are exact.

    Raises:
        ValueError: it is sharded otherwise than ``param``.
    """
    moment = torch.zeros_like(param, dtype=dtype)
    target, source = _same_shards(param, moment, saved)
    target.copy_(dequantise(source))
    return moment


@functools.cache
def _moment_class() -> Any:
    """Torchao's class, which learns here to be copied: ``copy.deepcopy`` of an optimizer clones its state."""
    from torchao.optim.subclass_8bit import OptimState8bit

    @OptimState8bit.implements(torch.ops.aten.clone.default)  # type: ignore[untyped-decorator]
    def clone(func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        state = args[0]
        copies = (state.codes.clone(), state.scale.clone(), state.qmap.clone())
        return OptimState8bit(*copies, state.signed, dtype=state.dtype)

    return OptimState8bit


def _sharded_like(param: Any, shard: Tensor) -> Tensor:
    if not is_dtensor(param):
        return shard
    from torch.distributed.tensor import DTensor

    made = DTensor.from_local(
        shard, param.device_mesh, param.placements, run_check=False, shape=param.shape, stride=param.stride()
    )
    # from_local moves the shard to the mesh's device; a parameter offloaded by FSDP2 is not there
    return made if made.device == param.device else made.to(param.device)


def _same_shards(param: Tensor, moment: Tensor, saved: Tensor) -> tuple[Any, Any]:
    target, source = local(moment), local(saved)
    if target.shape != source.shape:
        raise ValueError(
            f"the loaded moment of a parameter of shape {tuple(param.shape)} has {tuple(source.shape)} of it on this "
            f"rank, the parameter {tuple(target.shape)}: load it with torch.distributed.checkpoint"
        )
    return target, source


def _check_shards_hold_blocks(param: Any, block: int) -> None:
    if not is_dtensor(param):
        return
    sizes = list(param.shape)
    for axis, placement in enumerate(param.placements):
        dim: int = getattr(placement, "dim", 0)  # replicas have none
        if dim > 0:
            sizes[dim] = -(-sizes[dim] // param.device_mesh.size(axis))
            if sizes[dim] * math.prod(sizes[dim + 1 :]) % block:
                raise NotImplementedError(
                    f"the parameter of shape {tuple(param.shape)} is sharded along dimension {dim} into pieces of "
                    f"{sizes[dim]}, which cut its quantisation blocks of {block} entries: put it into a parameter "
                    "group with state='float32', or shard it along the first dimension"
                )


def _pieces(state: Any) -> Iterator[tuple[slice, slice]]:
    """Which entries to work on at a time, and which scales are theirs."""
    entries, block = state.codes.numel(), state.block_size
    size = PIECE.get(state.device.type, PIECE_ELSEWHERE)
    for start in range(0, entries, size):
        end = min(start + size, entries)
        yield slice(start, end), slice(start // block, end // block)


def _blocks(flat: Tensor, state: Any) -> Tensor:
    return flat.view(-1, state.block_size)


@functools.cache
def _tables(signed: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """What finds the code of a float32 number y in [−1, 1] without a search.

    Returns:
        The code of the smallest y whose upper 16 bits are given, by these bits as an integer plus 2¹⁵; and for each
        code the smallest y that has a higher one. No two such bounds agree in the upper 16 bits, so the code of y is
        the first or the next.
    """
    from torchao.optim.quant_utils import quantize_8bit_with_qmap
    from torchao.optim.subclass_8bit import get_qmap_signed, get_qmap_unsigned

    values = torch.tensor(get_qmap_signed() if signed else get_qmap_unsigned())

    upper = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32) << 16
    lowest = torch.where(upper < 0, upper | 0xFFFF, upper).view(torch.float32)
    cells = quantize_8bit_with_qmap(lowest, values)

    # The rounding of the middle decides; its neighbours are tried.
    middles = ((values[1:].double() + values[:-1].double()) / 2).float().view(torch.int32)
    tried = (middles[:, None] + torch.arange(-64, 65)).int().view(torch.float32).sort(dim=1).values
    higher = quantize_8bit_with_qmap(tried, values).int() > torch.arange(255)[:, None]
    bounds = tried.gather(1, higher.int().argmax(1, keepdim=True)).view(-1)
    bounds = torch.cat([bounds, torch.tensor([torch.inf])])
    return cells.to(device), bounds.to(device)

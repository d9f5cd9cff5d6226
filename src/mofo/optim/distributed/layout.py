"""Where the entries of a sharded parameter lie: which of them this process has, and which blocks it shares with others.

A `DTensor` is cut along its dimensions over the dimensions of a mesh of processes. What a process has of a dimension
is some of its indices, in ascending order, so its entries have the order that they have in the full tensor.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Placement


@dataclass(frozen=True)
class RowRange:
    """Consecutive blocks of which this process has equally many rows, one after the other in its local tensor."""

    start: int  # first row of the local tensor,
    stop: int  # and the one behind the last
    blocks: int  # how many blocks they make up
    shared: int | None  # place of the first among the shared blocks of the tensor; None: they are not shared


@dataclass(frozen=True)
class Layout:
    """What this process has of a sharded tensor."""

    mesh_dims: tuple[int, ...]  # of the mesh, over which entries of the tensor are spread
    indices: tuple[Tensor, ...]  # of each dimension of the tensor, those here; int64, ascending
    strides: tuple[int, ...]  # row-major, of the full tensor
    ranges: tuple[RowRange, ...]  # of the local tensor
    shared: int  # number of blocks that several processes share
    size: int  # number of entries of the full tensor,
    most: int  # and the largest number that a process has of them

    def global_index(self, local: Tensor) -> Tensor:
        """Return the row-major index in the full tensor of entries, given that in the local tensor (int64)."""
        index = torch.zeros_like(local)
        for indices, stride in zip(reversed(self.indices), reversed(self.strides), strict=True):
            index += indices.to(local.device)[local % len(indices)] * stride
            local = local // len(indices)
        return index


@functools.lru_cache(maxsize=4096)
def find_layout(
    shape: tuple[int, ...], mesh: DeviceMesh, placements: tuple[Placement, ...], blocks: int, *, share_all: bool
) -> Layout | None:
    """Return the layout of a `DTensor` whose first dimension is cut into blocks; None if this process has all of it.

    Args:
        shape: of the full tensor.
        mesh: the processes.
        placements: how the tensor is spread over each dimension of the mesh.
        blocks: into how many blocks its first dimension is cut.
        share_all: whether a block that lies in one process counts as shared too.

    Raises:
        NotImplementedError: the tensor is neither sharded nor replicated, but for instance a partial sum.
    """
    cuts: list[list[tuple[int, int]]] = [[] for _ in shape]  # of each dimension: number of parts, and split factor
    places = [0 for _ in shape]  # which of the parts of a dimension are here
    mesh_dims = []
    for mesh_dim, placement in enumerate(placements):
        if placement.is_replicate() or mesh.size(mesh_dim) == 1:
            continue
        dim, factor = _sharded_dim(placement)
        size = mesh.size(mesh_dim)
        cuts[dim].append((size, factor))
        places[dim] = places[dim] * size + mesh.get_local_rank(mesh_dim)
        mesh_dims.append(mesh_dim)
    if not mesh_dims or not math.prod(shape):
        return None

    parts = [parts_of_dimension(size, tuple(cut)) for size, cut in zip(shape, cuts, strict=True)]
    indices = tuple(part[place] for part, place in zip(parts, places, strict=True))
    strides = tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))
    in_one_part = torch.zeros(blocks, dtype=torch.bool)
    if not share_all and not any(cuts[1:]):
        in_one_part = _blocks_in_one_part(parts[0], shape[0], blocks)
    ranges = _ranges(indices[0] // (shape[0] // blocks), in_one_part)
    most = math.prod(max(map(len, part)) for part in parts)
    return Layout(tuple(mesh_dims), indices, strides, ranges, int((~in_one_part).sum()), math.prod(shape), most)


@functools.lru_cache(maxsize=1024)
def parts_of_dimension(size: int, cuts: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """Return the indices of a dimension that each of its parts has, in the order of the mesh.

    Args:
        size: of the dimension.
        cuts: for each dimension of the mesh that cuts it, into how many parts, and its split factor.
    """
    parts = [torch.arange(size)]
    for number, factor in cuts:
        parts = [smaller for part in parts for smaller in _cut(part, number, factor)]
    return parts


def _sharded_dim(placement: Placement) -> tuple[int, int]:
    """Return the dimension that a placement cuts, and into how many pieces it was cut before (FSDP over TP)."""
    dim: int | None = getattr(placement, "dim", None)  # of Shard and _StridedShard, which are not of one class
    if dim is None:
        raise NotImplementedError(f"MoFO updates parameters that are sharded or replicated, got placement {placement}")
    return dim, getattr(placement, "split_factor", 1)


def _cut(indices: Tensor, number: int, factor: int) -> list[Tensor]:
    """Cut into `factor` pieces, each of these into `number`; a part gets one from each."""
    pieces = [_chunk(piece, number) for piece in _chunk(indices, factor)]
    return [torch.cat(part) for part in zip(*pieces, strict=True)]


def _chunk(indices: Tensor, number: int) -> list[Tensor]:
    """Cut as `torch.chunk` does, but keep the empty chunks."""
    size = -(-len(indices) // number)
    return [indices[i * size : (i + 1) * size] for i in range(number)]


def _blocks_in_one_part(parts: Sequence[Tensor], rows: int, blocks: int) -> Tensor:
    """Check of each block whether one part has all its rows; (blocks,) bool."""
    owner = torch.empty(rows, dtype=torch.int64)
    for number, part in enumerate(parts):
        owner[part] = number
    first, last = owner.view(blocks, -1).aminmax(dim=1)
    return first == last


def _ranges(block_of_row: Tensor, in_one_part: Tensor) -> tuple[RowRange, ...]:
    """Cut the local rows, of each of which the block is given, into ranges."""
    block_ids, counts = block_of_row.unique_consecutive(return_counts=True)
    shared_before = (~in_one_part).cumsum(0) - (~in_one_part).int()
    ranges: list[RowRange] = []
    start = 0
    for block, rows in zip(block_ids.tolist(), counts.tolist(), strict=True):
        shared = None if in_one_part[block] else int(shared_before[block])
        last = ranges[-1] if ranges else None
        if last and (last.stop - last.start) // last.blocks == rows and _follows(last, shared):
            ranges[-1] = RowRange(last.start, start + rows, last.blocks + 1, last.shared)
        else:
            ranges.append(RowRange(start, start + rows, 1, shared))
        start += rows
    return tuple(ranges)


def _follows(rows: RowRange, shared: int | None) -> bool:
    if rows.shared is None or shared is None:
        return rows.shared is shared
    return rows.shared + rows.blocks == shared

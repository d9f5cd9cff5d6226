"""Moments in 8 bits for the native library: what it is told of them, and how it reads and writes them."""

from __future__ import annotations

import functools
from array import array
from typing import TYPE_CHECKING

import torch

from mofo.optim.kernels.cpu.library import Library, NativeConfig, load, loaded
from mofo.optim.kernels.plain.int8 import code_tables

if TYPE_CHECKING:
    from torch import Tensor
    from torchao.optim.subclass_8bit import OptimState8bit

BLOCKS = (64, 128, 256)  # entries of a quantisation block
DECADES = 7  # of the numbers that codes stand for
UNITS, MARGIN = 1 << 12, 16  # of struct Lines
ZERO = {True: 127, False: 0}  # the code of 0, by whether there are negative numbers


def serves(moment: OptimState8bit) -> bool:
    """Check whether the library reads and writes a moment."""
    parts = (moment.codes, moment.scale, moment.qmap)
    in_place = all(part.is_cpu and part.is_contiguous() for part in parts)
    return in_place and moment.block_size in BLOCKS and isinstance(load(), Library)


def pack(*moments: OptimState8bit) -> array[int]:
    """Return `struct Codebook` of kernel.h for each moment. These must be kept while the library reads it."""
    packed = array("Q")
    for moment in moments:
        tables = (*code_tables(moment.signed, moment.device), code_lines(moment.signed))
        addresses = (table.data_ptr() for table in (moment.qmap, *tables))
        packed.extend((moment.scale.data_ptr(), moment.block_size, *addresses, moment.signed))
    return packed


@functools.cache
def code_lines(signed: bool) -> Tensor:
    """Return `struct Lines` of kernel.h, as bytes.

    torchao's map has seven decades: the j-th has c = 2^j numbers, or 2^(j+1) if there are no negative ones, equally
    spaced between 10^(j-7) and 10^(j-6). Before them there is 0, after them 1.
    """
    _, bounds = code_tables(signed, torch.device("cpu"))
    slopes, offsets, limits = [0.0], [0.5], [0.5]  # magnitudes that round to 0
    starts, rank = [], 1
    for decade in range(DECADES):
        count = 1 << decade + (not signed)
        slopes.append(count / (9 * 10.0 ** (decade - DECADES)))
        offsets.append(rank - count / 9)
        limits.append(rank + count - 0.5)  # up to the first bound of the next decade
        starts.append(bounds[ZERO[signed] + rank - 1])
        rank += count
    starts.append(bounds[ZERO[signed] + rank - 1])  # magnitudes that round to 1
    for row, value in ((slopes, 0.0), (offsets, rank + 0.5), (limits, rank + 0.5)):
        row.extend([value] * (16 - len(row)))

    begins = torch.stack(starts)
    exponents = 2.0 ** torch.arange(-31, 1)  # by their lower five bits as floats have them
    line = (exponents[:, None] >= begins).sum(dim=1)
    following = torch.cat([begins, torch.tensor([torch.inf])])[line]
    heights = [
        (UNITS * torch.tensor(row, dtype=torch.float64)).float().view(torch.int32) for row in (slopes, offsets, limits)
    ]
    return torch.cat([*heights, line.int(), following.view(torch.int32) - MARGIN])


def dequantise(moment: OptimState8bit, values: Tensor, config: NativeConfig | None = None) -> None:
    """Write the values of a moment into a contiguous float32 tensor of its shape."""
    loaded().dequantise(pack(moment), moment.codes, values, config or NativeConfig())


def quantise(moment: OptimState8bit, values: Tensor, config: NativeConfig | None = None) -> None:
    """Set a moment in place to the values of a contiguous float32 tensor of its shape, rounded."""
    loaded().quantise(pack(moment), moment.codes, values, config or NativeConfig())

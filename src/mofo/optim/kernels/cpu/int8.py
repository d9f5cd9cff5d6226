"""Moments in 8 bits for the native library: what it is told of them, and how it reads and writes them."""

from __future__ import annotations

import ctypes
from array import array
from typing import TYPE_CHECKING

from mofo.optim.kernels.cpu.library import Library, NativeConfig, load
from mofo.optim.kernels.plain.int8 import code_tables

if TYPE_CHECKING:
    from torch import Tensor
    from torchao.optim.subclass_8bit import OptimState8bit


def serves(moment: OptimState8bit) -> bool:
    """Check whether the library reads and writes a moment."""
    parts = (moment.codes, moment.scale, moment.qmap)
    return all(part.is_cpu and part.is_contiguous() for part in parts) and isinstance(load(), Library)


def pack(*moments: OptimState8bit) -> array[int]:
    """Return `struct Codebook` of kernel.h for each moment. These must be kept while the library reads it."""
    packed = array("Q")
    for moment in moments:
        cells, bounds = code_tables(moment.signed, moment.device)
        tables = (moment.qmap.data_ptr(), cells.data_ptr(), bounds.data_ptr())
        packed.extend((moment.scale.data_ptr(), moment.block_size, *tables))
    return packed


def dequantise(moment: OptimState8bit, values: Tensor, config: NativeConfig | None = None) -> None:
    """Write the values of a moment into a contiguous float32 tensor of its shape."""
    _library().dequantise(pack(moment), moment.codes, values, config or NativeConfig())


def quantise(moment: OptimState8bit, values: Tensor, config: NativeConfig | None = None) -> None:
    """Set a moment in place to the values of a contiguous float32 tensor of its shape, rounded."""
    _library().quantise(pack(moment), moment.codes, values, config or NativeConfig())


def _library() -> Library:
    library = load()
    assert isinstance(library, Library)
    return library

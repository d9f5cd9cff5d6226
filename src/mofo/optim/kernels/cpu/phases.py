"""The local phases of a step of shards by the native library, each for all of them in one call."""

from __future__ import annotations

import ctypes
import struct
import weakref
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from mofo.optim.kernels.cpu.library import NativeConfig

SHARE = struct.Struct("=2q")  # struct Share of shards.h: number of the first block, stride of the sample


class Phases:
    """The phases, with the memory that they keep from step to step.

    `low`, `high`, `shift`, `keys` and `ties` are contiguous (blocks,) int64, for all shared blocks of the step.

    Args:
        library: the loaded library.
        pack_config: packs a configuration as it reads it.
    """

    def __init__(self, library: ctypes.CDLL, pack_config: Callable[[NativeConfig], bytes]) -> None:
        self._library = library
        self._pack_config = pack_config
        library.mofo_cpu_shards_new.restype = ctypes.c_void_p
        library.mofo_cpu_shards_tied.restype = ctypes.c_int64
        address = library.mofo_cpu_shards_new()
        if not address:
            raise MemoryError("no memory for the step; nothing was changed")
        self._shards = ctypes.c_void_p(address)
        weakref.finalize(self, library.mofo_cpu_shards_delete, self._shards)

    def begin(self, tensors: list[bytes], shares: list[bytes], bins: int, config: NativeConfig) -> None:
        """Take the tensors of a step. Their memory must be kept until `move` has returned.

        Args:
            tensors: contiguous, packed by `pack` of library.py.
            shares: of each, packed by `SHARE`.
            bins: in how many bins keys are counted.
            config: how it is computed.

        Raises:
            MemoryError: there is no memory; nothing was written.
        """
        count = ctypes.c_int64(len(tensors))
        arrays = b"".join(tensors), b"".join(shares)
        if self._library.mofo_cpu_shards_begin(
            self._shards, *arrays, count, ctypes.c_int64(bins), self._pack_config(config)
        ):
            raise MemoryError("no memory for the step; nothing was changed")

    def count_sample(self, least: int, shift: int, counts: Tensor) -> None:
        """Add to `counts` (blocks, bins) int64 how many keys of a sample are in each bin, `(key - least) >> shift`."""
        self._library.mofo_cpu_shards_sample(
            self._shards, ctypes.c_int64(least), ctypes.c_int64(shift), address_of(counts)
        )

    def update_moments(self, low: Tensor, high: Tensor) -> None:
        """Update the moments of all entries, and move those above `high`; from `low` on they are kept for `move`."""
        self._library.mofo_cpu_shards_moments(self._shards, address_of(low), address_of(high))

    def count_keys(self, low: Tensor, high: Tensor, shift: Tensor, counts: Tensor) -> None:
        """Add to `counts` (blocks, bins + 1) int64 how many keys are in each bin, as `count_bins` does."""
        self._library.mofo_cpu_shards_count(self._shards, *map(address_of, (low, high, shift, counts)))

    def tied_positions(self, block: int, key: int) -> Tensor | None:
        """Return where in the memory of its tensor the entries of a block with this key are, int64, ascending.

        None if what the pass over the moments kept does not tell.
        """
        positions = torch.empty(64, dtype=torch.int64)
        while True:
            arguments = (
                ctypes.c_int64(block),
                ctypes.c_int64(key),
                address_of(positions),
                ctypes.c_int64(len(positions)),
            )
            count = self._library.mofo_cpu_shards_tied(self._shards, *arguments)
            if count < 0:
                return None
            if count <= len(positions):
                return positions[:count]
            positions = torch.empty(count, dtype=torch.int64)

    def move(self, keys: Tensor, ties: Tensor) -> None:
        """Update the entries with a higher key than their block's in `keys`, and the first `ties` equal ones."""
        self._library.mofo_cpu_shards_move(self._shards, address_of(keys), address_of(ties))


def address_of(tensor: Tensor) -> ctypes.c_void_p:
    """Return where the data of a tensor begins."""
    return ctypes.c_void_p(tensor.data_ptr())

"""The difference of two tensors' bits: exact in every data type, and the same in both directions.

The bits of an entry are taken as an unsigned integer, and tuned minus base wraps around: base + difference is tuned,
and tuned − difference is base. Neighbouring floating-point numbers have neighbouring integers, so that a small change
is a small integer, of which the upper bytes are the same nearly everywhere and compress to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow
from numpy.typing import NDArray

Words = NDArray[np.unsignedinteger[Any]]
"""Entries of a tensor as unsigned integers of its width."""

Index = Literal["mask", "gaps"]
"""How the entries that differ are named: a bit for each entry, or the number of entries between them."""

GAP = 255
"""A byte of this value adds to a gap that is not at its end; smaller ones end it."""

_CODEC = pyarrow.Codec("zstd", compression_level=1)  # higher levels make these bytes no smaller


@dataclass(frozen=True)
class Changes:
    """The entries of a piece that differ, and how.

    Attributes:
        index: How `where` names them.
        moved: Number of entries that differ.
        size: Bytes of `where` before compression.
        where: Which they are, compressed.
        values: Their differences, compressed.
    """

    index: Index
    moved: int
    size: int
    where: bytes
    values: bytes


def compress(content: bytes | memoryview) -> bytes:
    """Return bytes compressed."""
    return bytes(_CODEC.compress(content, asbytes=True))


def decompress(content: bytes, size: int) -> bytes:
    """Return what `compress` was given.

    Args:
        content: Compressed bytes.
        size: How many there were.

    Raises:
        ValueError: The bytes are not compressed, or were more or fewer.
    """
    try:
        whole = bytes(_CODEC.decompress(content, decompressed_size=size, asbytes=True))
    except OSError as error:
        raise ValueError("compressed bytes are damaged") from error
    if len(whole) != size:
        raise ValueError("compressed bytes are cut off")
    return whole


def words_of(content: bytes, width: int) -> Words:
    """Return bytes as little-endian unsigned integers of a width in bytes."""
    return np.frombuffer(content, dtype=f"<u{width}")


def difference(base: Words, tuned: Words) -> Changes:
    """Return the changes from a base to tuned entries, each (entries of the piece,)."""
    change = tuned - base
    where = np.flatnonzero(change)
    return Changes(*name_entries(where, len(change)), compress(_planes(_zigzag(change[where]))))


def dense(changes: Changes, count: int, width: int) -> Words:
    """Return the difference of every entry of a piece; 0 where nothing moved.

    Args:
        changes: The changes.
        count: Entries of the piece.
        width: Bytes of an entry.

    Raises:
        ValueError: The changes are damaged.
    """
    change = np.zeros(count, dtype=f"<u{width}")
    planes = np.frombuffer(decompress(changes.values, changes.moved * width), np.uint8).reshape(width, changes.moved)
    zigzag = np.ascontiguousarray(planes.T).view(f"<u{width}").ravel()
    change[find_entries(changes, count)] = (zigzag >> 1) ^ (0 - (zigzag & 1))
    return change


def name_entries(where: NDArray[np.int64], count: int) -> tuple[Index, int, int, bytes]:
    """Return a compact name of some of a number of entries, as mask or as gaps, whichever is smaller.

    Args:
        where: Their positions in ascending order.
        count: Number of all entries.

    Returns:
        `index`, `moved`, `size` and `where` of `Changes`.
    """
    chosen = np.zeros(count, dtype=bool)
    chosen[where] = True
    bits = np.packbits(chosen)
    mask = compress(bits.tobytes())
    if 8 * len(where) <= count:  # otherwise a byte for each is more than a bit for all
        steps, last = np.divmod(np.diff(where, prepend=-1) - 1, GAP)
        gaps = np.full(int(steps.sum()) + len(where), GAP, dtype=np.uint8)
        gaps[np.cumsum(steps + 1) - 1] = last
        if len(coded := compress(gaps.tobytes())) < len(mask):
            return "gaps", len(where), len(gaps), coded
    return "mask", len(where), len(bits), mask


def find_entries(changes: Changes, count: int) -> NDArray[np.int64]:
    """Return the positions of the changed entries in ascending order.

    Raises:
        ValueError: The changes are damaged.
    """
    content = np.frombuffer(decompress(changes.where, changes.size), np.uint8)
    if changes.index == "mask":
        where = np.flatnonzero(np.unpackbits(content, count=count))
    else:
        ends = np.flatnonzero(content < GAP)
        where = np.cumsum(content, dtype=np.int64)[ends] + np.arange(len(ends))
    if len(where) != changes.moved or (len(where) and where[-1] >= count):
        raise ValueError("positions do not fit")
    return where.astype(np.int64, copy=False)


def _zigzag(change: Words) -> Words:
    """Return small integers for small differences of either sign: 0, −1, 1, −2 become 0, 1, 2, 3."""
    sign = 0 - (change >> (8 * change.itemsize - 1))
    return ((change << 1) ^ sign).astype(change.dtype, copy=False)


def _planes(words: Words) -> bytes:
    """Return the lowest bytes of all words, then the next ones, and so on."""
    return np.ascontiguousarray(words.view(np.uint8).reshape(len(words), words.itemsize).T).tobytes()

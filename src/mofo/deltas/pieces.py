"""One piece of a tensor: from its two versions to what a delta keeps of them, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mofo.deltas import bits
from mofo.deltas.bits import Changes, Index, Words, words_of
from mofo.deltas.quantised import Rounding, quantise, restore
from mofo.deltas.stored import PIECE, WIDTHS
from mofo.results import Record

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types that are converted into each other."""

_INTEGERS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16}
_INTEGERS[torch.bfloat16] = torch.int16


class Piece(Record):
    """What a delta keeps of a piece of a tensor."""

    how: Literal["difference", "quantised", "replaced"] = Field(
        default="difference",
        description="the difference of the bits; that of the values, rounded; or both versions as they are",
    )
    index: Index = Field(default="mask", description="how the changed entries are named")
    moved: int = Field(default=0, ge=0, le=PIECE, description="number of entries that differ")
    size: int = Field(default=0, ge=0, le=8 * PIECE, description="bytes of the first part before compression")
    parts: tuple[int, int] = Field(default=(0, 0), description="bytes of its two parts in the file")


class Coded:
    """A piece with its two parts.

    Args:
        piece: The piece, with the lengths of the parts.
        parts: Which entries changed and how, or the base's and the tuned model's bytes; compressed.
    """

    def __init__(self, piece: Piece, parts: tuple[bytes, bytes]) -> None:
        self.piece = piece
        self.parts = parts

    @classmethod
    def of(cls, how: Literal["difference", "quantised"], changes: Changes) -> Coded:
        """Return a piece of changes."""
        parts = (changes.where, changes.values)
        return cls(
            Piece(
                how=how,
                index=changes.index,
                moved=changes.moved,
                size=changes.size,
                parts=(len(parts[0]), len(parts[1])),
            ),
            parts,
        )

    @property
    def changes(self) -> Changes:
        """The changes."""
        return Changes(self.piece.index, self.piece.moved, self.piece.size, *self.parts)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread: pieces are small, and on a busy machine several threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def encode(base: bytes, tuned: bytes, dtypes: tuple[str | None, str | None]) -> Coded:
    """Return what leads from either version of a piece to the other, to the bit.

    A version that is shorter counts as filled up with zeros. Two floating-point types are compared in the wider one.

    Args:
        base: Bytes of the piece in the base; none where it has no such entries.
        tuned: Bytes in the tuned model.
        dtypes: Data types of the tensor in both; None where it does not exist.
    """
    if base == tuned and dtypes[0] == dtypes[1]:
        return Coded(Piece(), (b"", b""))
    wide = common_type(*dtypes)
    versions = list(zip((base, tuned), dtypes, strict=True))
    if wide is None or any(narrow(widen(old, dtype, wide), wide, dtype) != old for old, dtype in versions):
        parts = (bits.compress(base), bits.compress(tuned))
        lengths = (len(parts[0]), len(parts[1]))
        return Coded(Piece(how="replaced", moved=_count(tuned, dtypes[1]), parts=lengths), parts)
    both = [widen(old, dtype, wide) for old, dtype in versions]
    count = max(map(len, both))
    return Coded.of("difference", bits.difference(*(_padded(words, count) for words in both)))


def encode_rounded(base: bytes, tuned: bytes, dtypes: tuple[str | None, str | None]) -> tuple[Coded, bytes, Rounding]:
    """Return what leads from the base to about the tuned model, in 8 bits for each entry that moved.

    Returns:
        The piece, the bytes that it leads to, and how far these are from the tuned model's. A piece is kept to the bit
        where that is smaller (often in 16 bits), where its values are not finite, and where its type has none.
    """
    exact = encode(base, tuned, dtypes)
    known = [FLOATS.get(dtype or "") for dtype in dtypes]
    if len(base) and known[0] is not None and known[1] is not None:
        old, new = values_of(base, dtypes[0]), values_of(tuned, dtypes[1])
        old = _resized(old.to(new.dtype), len(new))
        if bool((new.double() - old.double()).isfinite().all()):
            where = np.flatnonzero((_integers(old) != _integers(new)).numpy())
            values, rounded, rounding = quantise(old, new, torch.from_numpy(where))
            changes = Changes(*bits.name_entries(where, len(new)), bits.compress(values))
            coded = Coded.of("quantised", changes)
            if sum(coded.piece.parts) < sum(exact.piece.parts):
                return coded, _bytes(rounded), rounding
            return exact, tuned, Rounding(change=rounding.change)
    return exact, tuned, Rounding()


def decode(coded: Coded, source: bytes, dtypes: tuple[str | None, str | None], size: int, *, forward: bool) -> bytes:
    """Return one version of a piece from the other.

    Args:
        coded: The piece.
        source: Bytes of the version that is there.
        dtypes: Data types of the tensor in the base and in the tuned model.
        size: Bytes of the version that is wanted.
        forward: Whether that is the tuned model's; otherwise it is the base's.

    Raises:
        ValueError: The piece is damaged, or was rounded and is wanted backward.
    """
    source_type, target_type = dtypes if forward else dtypes[::-1]
    width = WIDTHS.get(target_type or "", 1)
    if coded.piece.how == "replaced":
        return bits.decompress(coded.parts[1 if forward else 0], size)
    if coded.piece.how == "quantised":
        return _restored(coded, source, dtypes, size // width, forward=forward)
    wide = common_type(*dtypes)
    if wide is None:
        raise ValueError("types that have no common one")
    if not coded.piece.moved and source_type == target_type and len(source) == size:
        return source
    words = widen(source, source_type, wide)
    count = max(len(words), size // width)
    change = bits.dense(coded.changes, count, WIDTHS.get(wide, 1)) if coded.piece.moved else np.zeros_like(words)
    words = _padded(words, count)
    return narrow((words + change if forward else words - change)[: size // width], wide, target_type)


def common_type(one: str | None, other: str | None) -> str | None:
    """Return the type in which entries of two types are compared: exact for both; None if there is none."""
    if one == other or other is None:
        return one
    if one is None:
        return other
    if one in FLOATS and other in FLOATS:
        return "F64" if "F64" in (one, other) else "F32"
    return None


def widen(content: bytes, dtype: str | None, wide: str) -> Words:
    """Return the bits of entries as integers, in a type that is at least as wide."""
    width = WIDTHS.get(wide, 1)
    if dtype in (None, wide):
        return words_of(content, width)
    integers = _integers(values_of(content, dtype).to(FLOATS[wide]))
    return integers.numpy().view(f"<u{width}")


def narrow(words: Words, wide: str, dtype: str | None) -> bytes:
    """Return the bytes of entries from their bits in a wider type."""
    if dtype in (None, wide):
        return words.tobytes()
    return _bytes(values_of(words.tobytes(), wide).to(FLOATS[dtype or ""]))


def values_of(content: bytes, dtype: str | None) -> Tensor:
    """Return bytes as the numbers that they are, (entries,)."""
    kind = FLOATS[dtype or ""]
    return torch.frombuffer(bytearray(content), dtype=kind) if content else torch.empty(0, dtype=kind)


def _restored(
    coded: Coded, source: bytes, dtypes: tuple[str | None, str | None], count: int, *, forward: bool
) -> bytes:
    if not forward or dtypes[0] not in FLOATS or dtypes[1] not in FLOATS:
        raise ValueError("a rounded piece leads from the base alone")
    old = _resized(values_of(source, dtypes[0]).to(FLOATS[dtypes[1]]), count)
    where = torch.from_numpy(bits.find_entries(coded.changes, count))
    return _bytes(restore(old, where, coded.parts[1]))


def _padded(words: Words, count: int) -> Words:
    if len(words) == count:
        return words
    filled = np.zeros(count, words.dtype)
    filled[: len(words)] = words
    return filled


def _resized(values: Tensor, count: int) -> Tensor:
    """Return the first values, filled up with zeros."""
    if len(values) == count:
        return values
    filled = values.new_zeros(count)
    filled[: len(values)] = values[:count]
    return filled


def _integers(values: Tensor) -> Tensor:
    return values.view(_INTEGERS[values.dtype])


def _bytes(values: Tensor) -> bytes:
    return _integers(values).numpy().tobytes()


def _count(content: bytes, dtype: str | None) -> int:
    return len(content) // WIDTHS.get(dtype or "", 1)

"""The exact k-th largest score of a block without sorting it, in memory that does not grow with the block.

Scores are compared as the integers that have their bits: for non-negative floating numbers that is the same order,
with infinity and then NaN on top.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

CHUNK = 1 << 19  # entries handled at a time: small enough for the cache, large enough to outweigh the calls
SAMPLE = (1 << 12, 1 << 16)  # least and largest number of entries that are looked at first
INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an entry


class Threshold(NamedTuple):
    """Which entries of a block are selected: exactly k, or all non-finite ones if these are more."""

    key: int  # selected are the entries with a greater key,
    last: int  # and of those with this key the ones whose flat index is not greater than `last`

    def mark_(self, keys: Tensor, start: int) -> Tensor:
        """Overwrite the keys of the entries from flat index ``start`` on with −1 (selected) and 0 (others)."""
        ties = min(max(self.last + 1 - start, 0), keys.numel())
        keys[:ties].ge_(self.key)
        keys[ties:].gt_(self.key)
        return keys.neg_()


def chunks(n: int) -> list[slice]:
    """The flat indices 0 … n−1 in pieces of ``CHUNK``."""
    return [slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]


def find_threshold(keys: Callable[[slice], Tensor], n: int, k: int, infinity: int) -> Threshold:
    """Find the k-th largest of n keys exactly.

    A sample brackets it, one pass counts what lies above the bracket and collects what lies inside, and the k-th
    largest is among the latter. Where the sample misled, the bracket is widened until it holds.

    Args:
        keys: gives the keys (non-negative integers, 1-D) of a slice of flat indices, in memory that the next call
            may overwrite.
        n: number of entries of the block.
        k: 1 <= k <= n.
        infinity: the key of an infinite score.
    """
    spread = 3.0  # standard deviations of a quantile of independent entries
    while True:
        low, high = _bracket(keys, n, k, spread)
        above, inside, band = _scan(keys, n, low, high)
        if above < k <= above + inside:
            break
        spread *= 4

    key = low if low == high else int(band.kthvalue(inside - (k - above) + 1).values)
    if key >= infinity:
        return Threshold(infinity, n - 1)
    room = k - above - int((band > key).sum())
    tied = inside if low == high else int((band == key).sum())
    return Threshold(key, n - 1 if room == tied else _position(keys, n, key, room))


def _bracket(keys: Callable[[slice], Tensor], n: int, k: int, spread: float) -> tuple[int, int]:
    """Two keys between which the k-th largest probably lies, from an evenly spread sample."""
    stride = max(1, n // min(max(n // 64, SAMPLE[0]), SAMPLE[1]))
    while math.gcd(stride, n) > 1:  # a stride that shared a factor with the row length would see few columns
        stride += 1
    sample = keys(slice(0, n, stride))
    size = sample.numel()
    rank = k / n * size
    slack = spread * math.sqrt(rank * (1 - k / n)) + 1
    lowest, highest = math.ceil(rank + slack), math.floor(rank - slack)
    low = int(sample.kthvalue(size - lowest + 1).values) if lowest <= size else 0
    high = int(sample.kthvalue(size - highest + 1).values) if highest >= 1 else torch.iinfo(sample.dtype).max
    return low, high


def _scan(keys: Callable[[slice], Tensor], n: int, low: int, high: int) -> tuple[int, int, Tensor]:
    """How many keys are > high, how many in [low, high], and these (none if there is but one value)."""
    above = inside = 0
    band = []
    for piece in chunks(n):
        part = keys(piece)
        over, within = _compare(torch.gt, part, high), _compare(torch.ge, part, low)
        within.view(torch.int64).bitwise_xor_(over.view(torch.int64))
        above += int(over.sum(dtype=torch.int32))
        if low == high:
            inside += int(within.sum(dtype=torch.int32))
        else:
            band.append(part.index_select(0, _positions(within)))
            inside += band[-1].numel()
    return above, inside, torch.cat(band) if band else part.new_empty(0)


def _position(keys: Callable[[slice], Tensor], n: int, key: int, count: int) -> int:
    """Flat index of the ``count``-th entry that has this key."""
    for piece in chunks(n):
        equal = _compare(torch.eq, keys(piece), key)
        found = int(equal.sum(dtype=torch.int32))
        if found >= count:
            return piece.start + int(_positions(equal)[count - 1])
        count -= found
    raise AssertionError("fewer entries have the key than were counted")


def _compare(relation: Callable[..., Tensor], keys: Tensor, bound: int) -> Tensor:
    """The comparison as bytes 0 and 1, padded with 0 to a multiple of 8; three times as fast as torch's bool."""
    n = keys.numel()
    result = keys.new_empty(-(-n // 8) * 8, dtype=torch.uint8)
    result[n:] = 0
    relation(keys, bound, out=result[:n])
    return result


def _positions(marks: Tensor) -> Tensor:
    """Indices of the bytes that are not 0, in order. Fast where they are few: most groups of 8 are 0 together."""
    groups = marks.view(torch.int64)
    some = groups.nonzero().squeeze(1)
    hits = groups.index_select(0, some).view(torch.uint8).nonzero().squeeze(1)
    return some.index_select(0, hits >> 3).mul_(8).add_(hits & 7)

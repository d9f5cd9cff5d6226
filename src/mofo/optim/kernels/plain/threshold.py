"""The exact k-th largest score of a large block without sorting it, in memory that does not grow with the block.

Scores are compared as the integers that have their bits ("keys"): of non-negative floating-point numbers these have the
same order, with infinity and then NaN on top.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

CHUNK = 1 << 19  # entries handled at a time: few enough for the cache, enough to outweigh the cost of a call
SAMPLE = (1 << 12, 1 << 16)  # least and largest number of entries that are looked at first
INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of an entry
INFINITY = {torch.int32: 0x7F800000, torch.int64: 0x7FF0000000000000}  # the key of an infinite score


class Threshold(NamedTuple):
    """Which entries of a block are selected."""

    key: int  # those with a greater key,
    last: int  # and of those with this very key the ones up to this position in the block

    def mark_(self, keys: Tensor, start: int) -> Tensor:
        """Overwrite the keys of the entries from position `start` on with −1 (selected) and 0 (others)."""
        ties = min(max(self.last + 1 - start, 0), keys.numel())
        keys[:ties].ge_(self.key)
        keys[ties:].gt_(self.key)
        return keys.neg_()


def chunks(n: int) -> Iterator[slice]:
    """Cut the positions 0 … n−1 into slices of at most `CHUNK`."""
    for start in range(0, n, CHUNK):
        yield slice(start, min(start + CHUNK, n))


def find_threshold(keys: Callable[[slice], Tensor], n: int, k: int) -> Threshold:
    """Find what separates the k highest keys, of equal ones the first, and all infinite and NaN ones from the rest.

    A sample brackets the k-th highest key. One pass over the block counts the keys above the bracket and collects those
    inside, among which the k-th highest is found. If the sample misled, the counts show it and a wider bracket is
    tried.

    Args:
        keys: returns the keys (1-D, non-negative integers) of a slice of positions, in memory that the next call may
            overwrite.
        n: number of entries of the block.
        k: how many are selected, 1 <= k <= n.
    """
    spread = 3.0
    while True:
        low, high = guess_bracket(keys, n, k, spread)
        above, inside, band = _scan(keys, n, low, high)
        rank = k - above  # of the k-th highest key among those inside the bracket
        if 1 <= rank <= inside:
            break
        spread *= 4

    key = low
    if low < high:
        key = int(band.kthvalue(inside - rank + 1).values)
        rank -= int((band > key).sum())
        inside = int((band == key).sum())
    infinity = INFINITY[band.dtype]
    if key >= infinity:
        return Threshold(infinity, n - 1)
    return Threshold(key, n - 1 if rank == inside else _position(keys, n, key, rank))


def guess_bracket(keys: Callable[[slice], Tensor], n: int, k: int, spread: float) -> tuple[int, int]:
    """Return two keys between which the k-th highest probably lies, from an evenly spread sample.

    `spread` is the half-width of the bracket in standard deviations of the quantile of a sample.
    """
    stride = max(1, n // min(max(n // 64, SAMPLE[0]), SAMPLE[1]))
    while math.gcd(stride, n) > 1:  # a stride that shared a factor with the row length would see few columns
        stride += 1
    sample = keys(slice(0, n, stride))
    size = sample.numel()
    rank = k / n * size
    slack = spread * math.sqrt(rank * (1 - k / n)) + 1
    lower, upper = math.ceil(rank + slack), math.floor(rank - slack)
    low = int(sample.kthvalue(size - lower + 1).values) if lower <= size else 0
    high = int(sample.kthvalue(size - upper + 1).values) if upper >= 1 else torch.iinfo(sample.dtype).max
    return low, high


def _scan(keys: Callable[[slice], Tensor], n: int, low: int, high: int) -> tuple[int, int, Tensor]:
    """Count the keys > high and those in [low, high], and collect the latter unless they are all equal."""
    above = inside = 0
    band = []
    for piece in chunks(n):
        part = keys(piece)
        over, within = _mark(torch.gt, part, high), _mark(torch.ge, part, low)
        within.view(torch.int64).bitwise_xor_(over.view(torch.int64))
        above += _count(over)
        band.append(part[:0] if low == high else part.index_select(0, _positions(within)))
        inside += _count(within) if low == high else band[-1].numel()
    return above, inside, torch.cat(band)


def _position(keys: Callable[[slice], Tensor], n: int, key: int, count: int) -> int:
    """Return the position of the `count`-th entry that has this key; there are at least that many."""
    for piece in chunks(n):
        equal = _mark(torch.eq, keys(piece), key)
        found = _count(equal)
        if found >= count:
            break
        count -= found
    start: int = piece.start
    return start + int(_positions(equal)[count - 1])


def _mark(relation: Callable[..., Tensor], keys: Tensor, bound: int) -> Tensor:
    """Compare into bytes 1 and 0, three times as fast as torch's bool, padded with 0 to a multiple of 8."""
    n = keys.numel()
    marks = keys.new_empty(-(-n // 8) * 8, dtype=torch.uint8)
    marks[n:] = 0
    relation(keys, bound, out=marks[:n])
    return marks


def _count(marks: Tensor) -> int:
    return int(marks.sum(dtype=torch.int32))


def _positions(marks: Tensor) -> Tensor:
    """Return the indices of the bytes that are not 0, ascending; fast for few, as most groups of 8 are then empty."""
    occupied = marks.view(torch.int64).nonzero().squeeze(1)
    hits = marks.view(-1, 8).index_select(0, occupied).view(-1).nonzero().squeeze(1)
    return occupied.index_select(0, hits >> 3).mul_(8).add_(hits & 7)

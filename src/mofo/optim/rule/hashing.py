"""Randomness without a generator: a hash of a seed, a step and an entry's index, the same in every back end.

It is integer arithmetic, which processors, torch and GPUs do alike. A step may be known on the device only, so the hash
of seed and step must be cheap there too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

WORD = 0xFFFFFFFF
WORDS = 0xFFFFFFFFFFFFFFFF
GOLDEN = 0x9E3779B97F4A7C15  # odd and without structure; spreads what is hashed
NOISE, ROUNDING = 0, 1  # domain separation: the streams of random scores and of random rounding are independent


def hash_key(seed: int, step: int, purpose: int) -> int:
    """Return 64 bits that depend on `seed`, `step` and `purpose` alone, for one tensor in one step."""
    return _mix64(_mix64((seed + purpose * GOLDEN) & WORDS) + step * GOLDEN & WORDS)


def hash_indices(index: Tensor, key: int) -> Tensor:
    """Return 32 bits, held in int64, for each of these row-major indices (int64) of a tensor."""
    hashed = _mix32((index & WORD) ^ (key & WORD))
    return _mix32((hashed + (key >> 32) + (index >> 32)) & WORD)


def _mix32(x: Tensor) -> Tensor:
    """Apply the finaliser of MurmurHash3 to 32-bit words held in 64-bit integers."""
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & WORD
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & WORD
    return x ^ (x >> 16)


def _mix64(x: int) -> int:
    """Apply the finaliser of SplitMix64."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & WORDS
    x = (x ^ x >> 27) * 0x94D049BB133111EB & WORDS
    return x ^ x >> 31

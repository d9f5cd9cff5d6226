"""Measuring with several processes: each takes its share of a probe's batches, and all have the same numbers.

A model whose parameters are sharded gathers them in each forward pass, in which all processes must take part. So each
process runs as many batches as the others: where they do not come out even, some of them run a batch that another has,
too, and the number is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch.distributed as dist

Key = TypeVar("Key")
Value = TypeVar("Value")

_PLACE: ContextVar[tuple[int, int]] = ContextVar("_PLACE", default=(0, 1))
"""Rank of this process among those that measure together, and how many they are."""


@contextmanager
def among_processes() -> Iterator[None]:
    """Let probes share their batches among all processes of `torch.distributed`, all of which must measure."""
    several = dist.is_available() and dist.is_initialized()
    token = _PLACE.set((dist.get_rank(), dist.get_world_size()) if several else (0, 1))
    try:
        yield
    finally:
        _PLACE.reset(token)


def is_shared() -> bool:
    """Return whether several processes measure together."""
    return _PLACE.get()[1] > 1


def own(count: int) -> Sequence[int]:
    """Return which of a number of batches this process runs; as many as every other process runs."""
    rank, processes = _PLACE.get()
    if processes == 1:
        return range(count)
    return [number % count for number in range(rank, -(-count // processes) * processes, processes)]


def merged(found: dict[Key, Value]) -> dict[Key, Value]:
    """Return what all processes have found, by the unit that it belongs to."""
    _, processes = _PLACE.get()
    if processes == 1:
        return found
    gathered: list[dict[Key, Value]] = [{} for _ in range(processes)]
    dist.all_gather_object(gathered, found)
    return {key: value for part in gathered for key, value in part.items()}

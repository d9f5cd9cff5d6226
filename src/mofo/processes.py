"""The processes of `torch.distributed` that train together; alone, a process is the first of one."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist

Value = TypeVar("Value")


def are_several() -> bool:
    """Return whether this process is one of those of `torch.distributed`."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if are_several() else 0


def from_first(value: Value) -> Value:
    """Return the first process's value in all of them, all of which must ask."""
    if not are_several():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]

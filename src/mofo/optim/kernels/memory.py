"""Checks for kernels that work on addresses: whether the entries of tensors lie where their strides say."""

from __future__ import annotations

import torch

PLAIN = frozenset((torch.Tensor, torch.nn.Parameter))  # types without a subclass's ways


def holds_its_data(tensor: torch.Tensor) -> bool:
    """Check that a tensor's entries are in its own memory, and not in that of tensors which a subclass wraps."""
    own = type(tensor)
    return own in PLAIN or own.__torch_dispatch__ is torch.Tensor.__torch_dispatch__


def may_overlap_itself(tensor: torch.Tensor) -> bool:
    """Check whether two entries may share a place; never so for permutations and slices of contiguous tensors."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += stride * (size - 1)
    return False

"""`DTensor`, in which sharded parameters come, without importing torch's slow module of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs


def is_dtensor(tensor: Tensor) -> TypeIs[DTensor]:
    """Check whether a tensor is a `DTensor`; before that slow module is imported there is none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return the shard of a `DTensor` that this process has; any other tensor itself."""
    if not is_dtensor(tensor):
        return tensor
    shard: Tensor = tensor.to_local()
    return shard

"""`DTensor`, in which a sharded parameter comes, without importing torch's slow module of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs


def is_dtensor(tensor: Tensor) -> TypeIs[DTensor]:
    """Whether a tensor is a ``DTensor``; without importing that slow module, before which there is none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Any) -> Any:
    """The shard of a ``DTensor`` that this process has; any other tensor itself."""
    return tensor.to_local() if is_dtensor(tensor) else tensor

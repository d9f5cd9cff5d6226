"""Parameter groups from a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def param_groups(model: nn.Module, fraction: float = 0.15, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Groups for :class:`MoFO`."""
    params = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [{"params": params, "fraction": fraction, "weight_decay": weight_decay}]

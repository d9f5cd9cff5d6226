"""Stochastic gradient descent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mofo.methods.part import OptimizerPart, Setup, setting

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class SGD(OptimizerPart):
    """Stochastic gradient descent with momentum: m ← μ·m + g, θ ← θ − η·m. Its learning rates are far larger."""

    name = "sgd"
    label = "SGD"
    source = "Sutskever et al. 2013"
    cost = "4 bytes of state a parameter"
    across_processes = True

    momentum: float = setting(0.9, "decay μ of the momentum", ge=0, lt=1)

    def state_bytes(self, width: int) -> int:
        """Return the bytes of state of a weight: its momentum has its type, of `width` bytes."""
        return width

    def build(self, model: PreTrainedModel, setup: Setup) -> torch.optim.Optimizer:
        """Return torch's SGD; its weight decay is coupled: λ·θ is added to the gradient."""
        import torch

        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.SGD(
            trained, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay, foreach=True
        )

"""Lion, whole and filtered by its momentum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mofo.methods.part import OptimizerPart, Setup, setting

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Lion(OptimizerPart):
    """Lion: θ ← θ − η·(sign(β1·m + (1−β1)·g) + λ·θ), then m ← β2·m + (1−β2)·g."""

    name = "lion"
    label = "Lion"
    source = "arXiv 2302.06675"
    cost = "4 bytes of state a parameter"

    beta1: float = setting(0.9, "weight of the momentum in the update", ge=0, lt=1)
    beta2: float = setting(0.99, "decay of the momentum", ge=0, lt=1)

    def state_bytes(self, width: int) -> int:
        """Return the bytes of state of a weight: a momentum, and what rounding lost where the weight has 16 bits."""
        return 4

    def build(self, model: PreTrainedModel, setup: Setup) -> torch.optim.Optimizer:
        """Return the Lion of the optimi package."""
        from optimi import Lion as Optimizer

        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return Optimizer(  # type: ignore[no-any-return]
            trained,
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
            foreach=False,  # the only one on a CPU that its next release keeps
            triton=False,
        )


class MoFOLion(Lion):
    """Lion that updates, in every tensor, only the entries with the largest momentum after the step's gradient."""

    name = "mofo-lion"
    label = "MoFO-Lion"
    source = "arXiv 2407.20999, appendix"
    cost = "4 bytes of state a parameter; a plain-torch step with a sort of each tensor"

    fraction: float = setting(
        0.15, "share of the entries of a tensor that are updated at a step", short="f", gt=0, le=1
    )

    def state_bytes(self, width: int) -> int:
        """Return the bytes of state of a weight: its momentum has its type, of `width` bytes."""
        return width

    def build(self, model: PreTrainedModel, setup: Setup) -> torch.optim.Optimizer:
        """Return the filtered Lion."""
        from mofo.methods.filtered_lion import FilteredLion

        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return FilteredLion(
            trained,
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
            fraction=self.fraction,
        )

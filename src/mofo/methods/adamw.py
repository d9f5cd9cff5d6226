"""AdamW."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mofo.methods.part import OptimizerPart, Setup, setting

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class AdamW(OptimizerPart):
    """Full fine-tuning: every entry is updated at every step."""

    name = "adamw"
    label = "AdamW"
    source = "arXiv 1711.05101"
    cost = "8 bytes of state a parameter, 4 if it has 16 bits; 2 with state_dtype int8"
    across_processes = True

    rounding: Literal["nearest", "stochastic"] = setting(
        "nearest", "how new values of bfloat16 weights are rounded: nearest, or stochastic", flag=True
    )
    state_dtype: Literal["float32", "int8"] = setting("float32", "how moments are kept", variants={"int8": "8-bit"})

    def state_bytes(self, width: int) -> int:
        """Return the bytes of state of a weight of `width` bytes: torch keeps its moments in the weight's type."""
        if self.state_dtype == "int8":
            return 2
        return 2 * width if self.rounding == "nearest" else 8

    def build(self, model: PreTrainedModel, setup: Setup) -> torch.optim.Optimizer:
        """Return torch's fused AdamW; for what it cannot do MoFO with fraction 1, which is the same method.

        That is moments of 8 bits and stochastic rounding.
        """
        import torch

        import mofo

        if self.state_dtype == "float32" and self.rounding == "nearest":
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            return torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)
        groups = mofo.param_groups(model, fraction=1.0, weight_decay=self.weight_decay)
        return mofo.MoFO(groups, lr=self.learning_rate, rounding=self.rounding, state_dtype=self.state_dtype)

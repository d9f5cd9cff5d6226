"""L2 and L1 towards the base: what a weight has moved costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mofo.methods.part import Part, Setup, setting

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, TrainerCallback


class _Pull(Part):
    """What L2 and L1 have in common."""

    compares_with_base = True

    decoupled: bool = setting(False, "pull the weights back by η·λ after each step, instead of adding to the loss")

    def gradient(self, difference: Tensor) -> Tensor:
        """Return the penalty's gradient at θ − θ₀."""
        raise NotImplementedError

    def pulled(self, difference: Tensor, learning_rate: float) -> Tensor:
        """Return θ − θ₀ after the pull of a step."""
        raise NotImplementedError

    def after_backward(self, model: PreTrainedModel, step: int, setup: Setup) -> None:
        """Add the penalty's gradient, which needs no graph."""
        if not self.decoupled:
            for parameter, base in setup.pairs(model, self):
                if parameter.grad is not None:
                    parameter.grad.add_(self.gradient(parameter.detach() - base))

    def callbacks(self, setup: Setup) -> list[TrainerCallback]:
        """Return the pull after each step, where it is decoupled."""
        return [_pull_after_step(self, setup)] if self.decoupled else []


class L2(_Pull):
    """λ‖θ − θ₀‖² added to the loss; decoupled: θ − θ₀ shrinks by the factor 1 − 2·η·λ after each step."""

    name = "l2"
    label = "L2"
    source = "arXiv 1802.01483"
    cost = "4 bytes a parameter for the base; one pass over the weights a step"

    strength: float = setting(1e-3, "weight λ of the penalty", label="λ", short="strength", ge=0)

    def gradient(self, difference: Tensor) -> Tensor:
        """Return 2·λ·(θ − θ₀)."""
        return 2 * self.strength * difference

    def pulled(self, difference: Tensor, learning_rate: float) -> Tensor:
        """Return (1 − 2·η·λ)·(θ − θ₀), never beyond the base."""
        return difference * max(0.0, 1 - 2 * learning_rate * self.strength)


class L1(_Pull):
    """λ‖θ − θ₀‖₁ added to the loss; decoupled: a proximal step, |θ − θ₀| falls by η·λ and entries return exactly."""

    name = "l1"
    label = "L1"
    source = "arXiv 2407.20999, section 4"
    cost = "4 bytes a parameter for the base; one pass over the weights a step"

    strength: float = setting(1e-6, "weight λ of the penalty", label="λ", short="strength", ge=0)

    def gradient(self, difference: Tensor) -> Tensor:
        """Return λ·sign(θ − θ₀)."""
        return self.strength * difference.sign()

    def pulled(self, difference: Tensor, learning_rate: float) -> Tensor:
        """Return sign(θ − θ₀)·max(0, |θ − θ₀| − η·λ)."""
        import torch

        return torch.nn.functional.softshrink(difference, learning_rate * self.strength)


def _pull_after_step(part: _Pull, setup: Setup) -> TrainerCallback:
    from transformers import TrainerCallback

    class PullAfterStep(TrainerCallback):
        """Pulls the weights towards the base after each step of the optimizer."""

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Pull, with the learning rate of the step."""
            learning_rate = float(kwargs["optimizer"].param_groups[0]["lr"])
            for parameter, base in setup.pairs(kwargs["model"], part):
                weight = parameter.detach()
                weight.copy_(base + part.pulled(weight - base, learning_rate))

    return PullAfterStep()

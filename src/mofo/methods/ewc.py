"""Elastic weight consolidation without pre-training data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mofo.methods.base_text import base_text
from mofo.methods.part import Part, Setup, setting

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class EWC(Part):
    """λ/2·Σ F·(θ − θ₀)² added to the loss, F the diagonal Fisher information of the base on text that it wrote.

    The text is a sample of the base itself, so this is the true Fisher information, and to second order the penalty is
    λ times the divergence from the base per token.
    """

    name = "ewc"
    label = "EWC"
    source = "arXiv 1612.00796"
    cost = "8 bytes a parameter for the base and the Fisher information; one pass over the weights a step"
    compares_with_base = True

    strength: float = setting(1.0, "weight λ of the penalty", label="λ", short="strength", ge=0)
    texts: int = setting(64, "texts that the Fisher information is measured on", ge=1)
    tokens: int = setting(128, "tokens of each text", ge=1)

    def prepare(self, model: PreTrainedModel, setup: Setup) -> PreTrainedModel:
        """Measure the Fisher information while the model is still the base."""
        fisher(model, setup, texts=self.texts, tokens=self.tokens)
        return model

    def after_backward(self, model: PreTrainedModel, step: int, setup: Setup) -> None:
        """Add the penalty's gradient λ·F·(θ − θ₀), which needs no graph."""
        information = fisher(model, setup, texts=self.texts, tokens=self.tokens)
        names = {parameter: name for name, parameter in model.named_parameters()}
        for parameter, base in setup.pairs(model, self):
            if parameter.grad is not None:
                difference = parameter.detach() - base
                parameter.grad.add_(information[names[parameter]] * difference, alpha=self.strength)


def fisher(base: PreTrainedModel, setup: Setup, *, texts: int, tokens: int) -> dict[str, Tensor]:
    """Return the diagonal Fisher information per token of each trainable parameter, made once for a comparison.

    The mean over texts of the squared gradient of a text's log-probability, divided by its tokens: the scores of a
    text's tokens are uncorrelated where the model itself wrote it, so that their squares add up.
    """
    import torch

    def measure() -> dict[str, Tensor]:
        parameters = {name: p for name, p in base.named_parameters() if p.requires_grad}
        total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
        for text in base_text(base, setup, texts=texts, tokens=tokens).split(1):
            ids = text.to(setup.device)
            log_p = base(input_ids=ids[:, :-1], use_cache=False).logits.float().log_softmax(dim=-1)
            written = log_p[:, -tokens:].gather(-1, ids[:, -tokens:, None]).sum()
            for name, gradient in zip(total, torch.autograd.grad(written, list(parameters.values())), strict=True):
                total[name].addcmul_(gradient.float(), gradient.float(), value=1 / (texts * tokens))
        return {name: value.cpu() for name, value in total.items()}

    return setup.once(f"fisher-{texts}x{tokens}", measure, shared=True)

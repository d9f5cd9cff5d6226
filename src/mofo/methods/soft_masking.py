"""Soft-masking, and CoFiTune, which is it on a few feed-forward layers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mofo.errors import UserError
from mofo.methods.importance import importance, scale_gradients
from mofo.methods.part import Part, Setup, setting

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SoftMasking(Part):
    """The gradients of each attention head and neuron are scaled by 1 − its importance for the base.

    Adam divides by the gradient's own size, so a factor that stays the same changes little with it: what is left is
    its part in clipping. With SGD it acts in full.
    """

    name = "soft-masking"
    label = "soft-masking"
    source = "arXiv 2302.03241"
    cost = "one pass over the gradients a step"

    texts: int = setting(64, "texts that the importance is measured on", ge=1)
    tokens: int = setting(128, "tokens of each text", ge=1)

    def prepare(self, model: PreTrainedModel, setup: Setup) -> PreTrainedModel:
        """Measure the importance while the model is still the base."""
        importance(model, setup, texts=self.texts, tokens=self.tokens)
        return model

    def after_backward(self, model: PreTrainedModel, step: int, setup: Setup) -> None:
        """Scale the gradients."""
        scale_gradients(model, importance(model, setup, texts=self.texts, tokens=self.tokens))


class CoFiTune(SoftMasking):
    """Only the feed-forward parts of the middle layers are trained, with soft-masking."""

    name = "cofitune"
    label = "CoFiTune"
    source = "arXiv 2404.10306"
    cost = "state and gradients of the trained layers alone"

    first: float = setting(0.25, "depth at which the trained layers begin, as a share of all", ge=0, lt=1)
    last: float = setting(0.5, "depth at which they end", gt=0, le=1)

    def prepare(self, model: PreTrainedModel, setup: Setup) -> PreTrainedModel:
        """Measure the importance, then freeze all but the feed-forward parts of the chosen layers."""
        super().prepare(model, setup)
        depth: int = model.config.num_hidden_layers
        chosen = range(round(self.first * depth), round(self.last * depth))
        trained = 0
        for name, parameter in model.named_parameters():
            layer = re.search(r"\.(\d+)\.mlp\.", name)
            parameter.requires_grad_(layer is not None and int(layer[1]) in chosen)
            trained += parameter.requires_grad
        if not trained:
            raise UserError(
                f"cofitune.first = {self.first:g} to cofitune.last = {self.last:g} of {depth} layers has no "
                "feed-forward part to train: give a wider range, or a model whose layers have an `mlp`."
            )
        return model

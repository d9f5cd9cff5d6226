"""Half fine-tuning."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from typing import TYPE_CHECKING

from mofo.methods.part import Part, Setup, setting

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class HFT(Part):
    """Half of the parameter matrices of each layer are frozen, drawn by seed.

    In each module of a decoder layer that holds matrices (attention, feed-forward) half of them are frozen; where
    their number is odd, one more or one less in turn, so that it is half over the layers. What lies outside of the
    layers, and norms and biases, is trained. Each task of a sequence has a half of its own.
    """

    name = "hft"
    label = "HFT"
    source = "arXiv 2404.18466"
    cost = "no state and no gradients for the frozen half"

    draw: int = setting(0, "seed of the draw, added to that of the run", ge=0)

    def prepare(self, model: PreTrainedModel, setup: Setup) -> PreTrainedModel:
        """Freeze the drawn half."""
        self._freeze(model, setup)
        return model

    def next_task(self, model: PreTrainedModel, setup: Setup) -> None:
        """Free the half of the task before, and freeze another."""
        for parameter in setup.scratch[self.name]:
            parameter.requires_grad_(True)
        self._freeze(model, setup)

    def _freeze(self, model: PreTrainedModel, setup: Setup) -> None:
        """Freeze half of the matrices, and remember those that were trained before."""
        chance = random.Random(setup.seed + 1_000_003 * self.draw + 999_983 * setup.task)
        extra: dict[str, bool] = defaultdict(bool)  # by kind of module: whether the last odd one froze one more
        frozen = []
        for module, names in _matrices(model).items():
            count = len(names) // 2
            if len(names) % 2:
                kind = module.rpartition(".")[2]
                extra[kind] = not extra[kind]
                count += extra[kind]
            frozen += [model.get_parameter(name) for name in chance.sample(names, count)]
        setup.scratch[self.name] = [parameter for parameter in frozen if parameter.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(False)


def _matrices(model: PreTrainedModel) -> dict[str, list[str]]:
    """Return the names of the matrices in each attention and feed-forward module of the numbered layers."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        match = re.match(r"(.*\.\d+\.[^.]+)\..+", name)
        if match and parameter.dim() >= 2:
            found[match[1]].append(name)
    return found

"""The end of training, moved back towards the base."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

from mofo.methods.part import Part, Setup, setting

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from mofo.results import Scalar


class Blend(Part):
    """θ₀ + c·(θ − θ₀) of a run's end, measured for each c without training again.

    With a tilt t the layers are cut into groups from first to last, which keep shares from c − t to c + t in equal
    steps: what lower layers change may cost more of what the base knew than what upper ones do (arXiv 2309.06256).
    Embeddings are of the first group, what follows the layers is of the last.
    """

    name = "blend"
    label = "blend"
    source = "arXiv 2109.01903"
    cost = "one measurement for each share and tilt"
    compares_with_base = True

    keep: tuple[float, ...] = setting((0.8, 0.6, 0.4), "shares c of the change that are kept", label="c")
    tilt: tuple[float, ...] = setting(
        (0.0,), "how much more than c the last group of layers keeps, and less the first", label="t"
    )
    groups: int = setting(3, "groups of layers that a tilt tells apart", ge=2)

    def after_training(self, model: PreTrainedModel, setup: Setup) -> Iterator[dict[str, Scalar]]:
        """Yield once for each share and tilt, with the model blended; leave it as it was trained."""
        places = _places(model)
        names = {parameter: name for name, parameter in model.named_parameters()}
        trained = [
            (parameter.detach(), base, parameter.detach().clone(), places[names[parameter]])
            for parameter, base in setup.pairs(model, self)
        ]
        for keep, tilt in product(self.keep, self.tilt):
            for weight, base, end, place in trained:
                weight.copy_(base.lerp(end, self.share(keep, tilt, place)))
            values: dict[str, Scalar] = {"keep": keep}
            if self.tilt != (0.0,):
                values["tilt"] = tilt
            yield values
        for weight, _, end, _ in trained:
            weight.copy_(end)

    def share(self, keep: float, tilt: float, place: float) -> float:
        """Return the share, in [0, 1], that a parameter keeps with the share `place` of the layers before it."""
        group = min(int(place * self.groups), self.groups - 1)
        return min(1.0, max(0.0, keep + tilt * (2 * group / (self.groups - 1) - 1)))


def _places(model: nn.Module) -> dict[str, float]:
    """Return how many of the model's layers come before each parameter, as a share of all, by name."""
    names = [name for name, _ in model.named_parameters()]  # in the order of computation
    layers = [int(number[1]) if (number := re.search(r"\.(\d+)\.", name)) else None for name in names]
    count = 1 + max((layer for layer in layers if layer is not None), default=0)
    found: dict[str, float] = {}
    place = 0.0
    for name, layer in zip(names, layers, strict=True):
        if layer is not None:
            place = layer / count
        following = layer is None and any(other is not None for other in layers[: len(found)])
        found[name] = 1.0 if following else place
    return found

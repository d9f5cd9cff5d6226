"""The end of training, moved back towards the base."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mofo.methods.part import Part, Setup, setting

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from mofo.results import Scalar


class Blend(Part):
    """θ₀ + c·(θ − θ₀) of a run's end, measured for each c without training again."""

    name = "blend"
    label = "blend"
    source = "arXiv 2109.01903"
    cost = "one measurement for each share"
    compares_with_base = True

    keep: tuple[float, ...] = setting((0.8, 0.6, 0.4), "shares c of the change that are kept", label="c")

    def after_training(self, model: PreTrainedModel, setup: Setup) -> Iterator[dict[str, Scalar]]:
        """Yield once for each share, with the model blended; leave it as it was trained."""
        weights = ((parameter.detach(), base) for parameter, base in setup.pairs(model, self))
        trained = [(weight, base, weight.clone()) for weight, base in weights]
        for share in self.keep:
            for weight, base, end in trained:
                weight.copy_(base.lerp(end, share))
            yield {"keep": share}
        for weight, _, end in trained:
            weight.copy_(end)

"""The end of training, moved back towards the base."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from mofo.methods.part import Part, Setup, setting

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from mofo.results import Scalar


class Blend(Part):
    """θ₀ + c·(θ − θ₀): the end of training, moved back to a share c of its change.

    In a comparison each of several shares is measured, without training again. In a trainer there is one, which is what
    the trained model becomes. With a tilt t the layers are cut into groups from first to last, which keep shares from
    c − t to c + t in equal steps: what lower layers change may cost more of what the base knew than what upper ones do
    (arXiv 2309.06256). Embeddings are of the first group, what follows the layers is of the last. Of LoRA the change is
    proportional to B, which is scaled.
    """

    name = "blend"
    label = "blend"
    source = "arXiv 2109.01903"
    cost = "a copy of the base; in a comparison one measurement for each share and tilt"
    compares_with_base = True

    keep: tuple[Annotated[float, Field(ge=0, le=1)], ...] = setting(
        (0.9,), "share c of the change that is kept, or several", label="c", min_length=1
    )
    tilt: tuple[float, ...] = setting(
        (0.0,),
        "how much more than c the last group of layers keeps, and less the first, or several",
        label="t",
        min_length=1,
    )
    groups: int = setting(3, "groups of layers that a tilt tells apart", ge=2)

    @field_validator("keep", "tilt", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        """Take one value for a list of one."""
        return value if isinstance(value, list | tuple) else (value,)

    @property
    def ends(self) -> int:
        """How many models the end of a training becomes."""
        return len(self.keep) * len(self.tilt)

    def penalty(self, model: PreTrainedModel, step: int, setup: Setup) -> Tensor | None:
        """Check before the first step that a straight line will lead back to the base; add nothing.

        Raises:
            UserError: None will, as with DoRA.
        """
        from mofo.models.line import check_line

        if step == 0:
            check_line(model)
        return None

    def after_training(self, model: PreTrainedModel, setup: Setup) -> Iterator[dict[str, Scalar]]:
        """Yield once for each share and tilt, with the model blended; leave it as it was trained."""
        from mofo.models.line import Line

        line, places = Line(model, setup.base), _places(model)
        for keep, tilt in product(self.keep, self.tilt):
            shares = {name: self.share(keep, tilt, place) for name, place in places.items()}
            line.go(shares.__getitem__)
            yield {"keep": keep} if self.tilt == (0.0,) else {"keep": keep, "tilt": tilt}
        line.go(1)

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

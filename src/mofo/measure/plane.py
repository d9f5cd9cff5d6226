"""The plane through a base and two tuned models, in the space of all weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mofo.errors import UserError
from mofo.landscape import Projection
from mofo.models.weights import weights_of

if TYPE_CHECKING:
    from torch import nn

Weights = Mapping[str, Tensor]

CHUNK = 1 << 20
"""Entries taken at once: their float64 copies are small."""

SMALLEST_ANGLE = 1e-3
"""Radians: two directions that are closer span no plane but that of their rounding."""


class Plane:
    """The plane base + x·u + y·v, with u ⟂ v of the same length (see `mofo.landscape`).

    It holds three copies of the weights: the base's and the two directions, which replace the weights that were given.

    Args:
        base: Weights of the base by name, float32.
        first: Weights of the first model by the same names; they become u.
        second: Weights of the second model, likewise; they become v.

    Raises:
        UserError: The first model is the base, or the second lies on the line through both.
    """

    def __init__(self, base: Weights, first: Weights, second: Weights) -> None:
        self.base, self.u, self.v = base, first, second
        for name, weight in base.items():
            self.u[name].sub_(weight)
            self.v[name].sub_(weight)
        self.unit = math.sqrt(_dot(self.u, self.u))
        if self.unit == 0:
            raise UserError("The first model has the weights of the base: there is no direction from one to the other.")
        length = math.sqrt(_dot(self.v, self.v))
        along = _dot(self.v, self.u) / self.unit**2
        for name, direction in self.u.items():
            self.v[name].sub_(direction, alpha=along)
        across = math.sqrt(_dot(self.v, self.v))
        if across <= SMALLEST_ANGLE * length:
            raise UserError(
                "The base and the two models lie on one line, so that no plane goes through them: give another second "
                "model."
            )
        for direction in self.v.values():
            direction.mul_(self.unit / across)
        self.angle = math.degrees(math.atan2(across, along * self.unit))
        self.first = Projection(x=1.0, y=0.0, off=0.0, l2=self.unit)
        self.second = Projection(x=along, y=across / self.unit, off=0.0, l2=length)

    def project(self, weights: Weights) -> Projection:
        """Return the point of the plane that is nearest to a model's weights, and how far these are from it."""
        along = across = square = 0.0
        for name, base in self.base.items():
            entries = (weights[name], base, self.u[name], self.v[name])
            for new, old, u, v in zip(*(entry.reshape(-1).split(CHUNK) for entry in entries), strict=True):
                difference = new.double() - old.double()
                along += float(difference.dot(u.double()))
                across += float(difference.dot(v.double()))
                square += float(difference.dot(difference))
        x, y = along / self.unit**2, across / self.unit**2
        off = max(0.0, square / self.unit**2 - x**2 - y**2)
        return Projection(x=x, y=y, off=math.sqrt(off), l2=math.sqrt(square))

    def move(self, model: nn.Module, x: float, y: float) -> None:
        """Give a model the weights of a point of the plane."""
        for name, weight in weights_of(model).items():
            torch.add(self.base[name], self.u[name], alpha=x, out=weight).add_(self.v[name], alpha=y)


def _dot(one: Weights, other: Weights) -> float:
    """Return the inner product of two sets of tensors, in float64."""
    return sum(
        float(a.double().dot(b.double()))
        for name in one
        for a, b in zip(one[name].reshape(-1).split(CHUNK), other[name].reshape(-1).split(CHUNK), strict=True)
    )

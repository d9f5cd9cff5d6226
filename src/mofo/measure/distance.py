"""Distance between two models' weights: how far did they move, and how many of them moved at all?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mofo.errors import UserError
from mofo.models.weights import depth, layer_of, tied_names
from mofo.results import FinalDistance, LayerDistance

CHUNK = 1 << 16
"""Entries taken at once: their float64 copies stay in the cache of a core."""

LISTED = 5
"""Mismatches that an error names."""


@dataclass
class Movement:
    """Sums over entries of a base and a tuned model, from which distances follow.

    Attributes:
        square: Σ(tuned − base)².
        base_square: Σ base².
        moved: Number of entries that differ.
        parameters: Number of entries.
    """

    square: float = 0.0
    base_square: float = 0.0
    moved: int = 0
    parameters: int = 0

    def add(self, other: Movement) -> None:
        """Add the sums over other entries."""
        self.square += other.square
        self.base_square += other.base_square
        self.moved += other.moved
        self.parameters += other.parameters


def weight_distance(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> FinalDistance:
    """Return the distance from a base to a tuned model, in total and per layer.

    The base is taken in the precision of the tuned model, so that a model that was merely saved in bfloat16 has not
    moved. An entry has moved if its value differs; 0 and −0 are one value, as they are one to the model. Sums are taken
    in float64. One tensor of each model is in memory at a time.

    Args:
        base: Tensors of the base by name, as `mofo.models.weights.weights_of` returns them.
        tuned: Tensors of the tuned model by the same names.

    Returns:
        `l2` = ‖tuned − base‖₂; `relative` = `l2` / ‖base‖₂; `moved`, the share of entries that differ; and the same per
        layer, in the order of the model. A layer is the number of a decoder layer, or the name of a module outside of
        them (`embed_tokens`, `norm`, `lm_head`).

    Raises:
        UserError: The two do not have the same tensors; the names or shapes are listed.
    """
    layers: defaultdict[str, Movement] = defaultdict(Movement)
    problems = []
    for name in comparable_names(base, tuned):
        old, new = base[name], tuned[name]
        if old.shape == new.shape:
            layers[layer_of(name)].add(movement(old, new))
        else:
            problems.append(f"`{name}` is {list(old.shape)} in the base and {list(new.shape)} in the tuned model")
    _refuse(problems)
    total = Movement()
    for layer in layers.values():
        total.add(layer)
    return FinalDistance(
        l2=math.sqrt(total.square),
        relative=math.sqrt(total.square / total.base_square),
        moved=total.moved / total.parameters,
        layers=[
            LayerDistance(
                layer=name,
                l2=math.sqrt(layers[name].square),
                moved=layers[name].moved / layers[name].parameters,
                parameters=layers[name].parameters,
            )
            for name in sorted(layers, key=depth)
        ],
    )


def movement(base: Tensor, tuned: Tensor) -> Movement:
    """Return the sums over the entries of one tensor."""
    sums = Movement(parameters=tuned.numel())
    for old, new in zip(base.reshape(-1).split(CHUNK), tuned.reshape(-1).split(CHUNK), strict=True):
        old = old.to(new)
        sums.moved += int(torch.count_nonzero(old != new))
        old = old.double()
        difference = new.double() - old
        sums.square += float(difference.dot(difference))
        sums.base_square += float(old.dot(old))
    return sums


def comparable_names(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> list[str]:
    """Return the names to compare, each tied tensor once.

    A tied output layer may be stored or not: a name is left out if each of the two models either lacks it or holds the
    same matrix under an earlier name.

    Raises:
        UserError: A name is in only one of the two.
    """
    without_base = (set(tuned) - set(base)) | tied_names(base)
    without_tuned = (set(base) - set(tuned)) | tied_names(tuned)
    left_out = without_base & without_tuned
    base_names, tuned_names = set(base) - left_out, set(tuned) - left_out
    problems = [f"`{name}` is only in the base" for name in sorted(base_names - tuned_names)]
    problems += [f"`{name}` is only in the tuned model" for name in sorted(tuned_names - base_names)]
    _refuse(problems)
    # Sorted, so that the sums do not depend on the order in which a model is stored.
    return sorted(tuned_names)


def _refuse(problems: list[str]) -> None:
    if problems:
        more = f" and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise UserError(f"The two models do not have the same tensors: {', '.join(problems[:LISTED])}{more}.")

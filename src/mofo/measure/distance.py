"""Distance between two models' weights: how far did it move, and how much of it moved at all?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mofo.errors import UserError
from mofo.models.weights import depth, layer_of, tied_names

CHUNK = 1 << 16
"""Entries taken at once: their float64 copies stay in the cache of a core."""

LISTED = 5
"""Mismatches that an error names."""


def distance(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> dict[str, Any]:
    """Distance from `base` to `tuned`, in total and per layer.

    The base is taken in the precision of the tuned model, so that a model that was merely saved in bfloat16
    has not moved. An entry has moved if its value differs; 0 and −0 are one value, as they are one to the
    model. Sums are taken in float64. One tensor of each is in memory at a time.

    Args:
        base: Tensors of the base by name: `Weights`, or a model's `state_dict()`.
        tuned: Tensors of the tuned model by the same names.

    Returns:
        `l2` = ‖tuned − base‖₂; `relative` = `l2` / ‖base‖₂; `moved`, the fraction of entries that differ;
        `layers`, in the order of the model, each with `layer`, `l2`, `moved` and `parameters`, its number
        of entries. A layer is the number of a decoder layer, or the name of a module outside of them
        (`embed_tokens`, `norm`, `lm_head`).

    Raises:
        UserError: The two do not have the same tensors; the names or shapes are listed.
    """
    names = comparable_names(base, tuned)
    layers: dict[str, dict[str, float]] = {}
    base_square = 0.0
    problems = []
    for name in names:
        old, new = base[name], tuned[name]
        if old.shape != new.shape:
            problems.append(f"`{name}` is {list(old.shape)} in the base and {list(new.shape)} in the tuned model")
            continue
        square, moved, length = compare(old, new)
        entry = layers.setdefault(layer_of(name), {"square": 0.0, "moved": 0, "parameters": 0})
        entry["square"] += square
        entry["moved"] += moved
        entry["parameters"] += new.numel()
        base_square += length
    refuse(problems)
    square, moved, parameters = (
        sum(entry[key] for entry in layers.values()) for key in ("square", "moved", "parameters")
    )
    return {
        "l2": math.sqrt(square),
        "relative": math.sqrt(square / base_square),
        "moved": moved / parameters,
        "layers": [
            {
                "layer": layer,
                "l2": math.sqrt(entry["square"]),
                "moved": entry["moved"] / entry["parameters"],
                "parameters": entry["parameters"],
            }
            for layer, entry in sorted(layers.items(), key=lambda item: depth(item[0]))
        ],
    }


def compare(base: Tensor, tuned: Tensor) -> tuple[float, int, float]:
    """Return Σ(tuned − base)², the number of entries that differ, and Σ base²."""
    square = length = 0.0
    moved = 0
    for old, new in zip(base.reshape(-1).split(CHUNK), tuned.reshape(-1).split(CHUNK), strict=True):
        old = old.to(new)
        moved += int(torch.count_nonzero(old != new))
        old = old.double()
        difference = new.double() - old
        square += float(difference.dot(difference))
        length += float(old.dot(old))
    return square, moved, length


def comparable_names(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> list[str]:
    """Return the names to compare, each tied tensor once.

    A tied output layer may be stored or not: a name is left out if each of the two models either lacks it
    or holds the same matrix under an earlier name.

    Raises:
        UserError: A name is in only one of the two.
    """
    without_base = (set(tuned) - set(base)) | tied_names(base)
    without_tuned = (set(base) - set(tuned)) | tied_names(tuned)
    left_out = without_base & without_tuned
    base_names, tuned_names = set(base) - left_out, set(tuned) - left_out
    problems = [f"`{name}` is only in the base" for name in sorted(base_names - tuned_names)]
    problems += [f"`{name}` is only in the tuned model" for name in sorted(tuned_names - base_names)]
    refuse(problems)
    # sorted, so that the sums do not depend on the order in which a model is stored
    return sorted(tuned_names)


def refuse(problems: list[str]) -> None:
    """Raise a `UserError` that lists the problems, if there are any."""
    if problems:
        more = f" and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise UserError("the two models do not have the same tensors: " + ", ".join(problems[:LISTED]) + more)

"""A share of a change: base + c · (tuned − base)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from mofo.errors import UserError
from mofo.models.weights import weights_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PIECE = 1 << 20
"""Entries that are blended at once, so that their float64 copies need no memory to speak of."""


def blend(base: Tensor, tuned: Tensor, scale: float) -> Tensor:
    """Return a tensor at a share of its change, in the tuned one's type.

    Computed in float64 and rounded once; to the bit the base at 0, if both are of one type, and the tuned one at 1.

    Args:
        base: The tensor in the base.
        tuned: The tensor in the tuned model, of the same shape.
        scale: The share c.
    """
    if scale in (0, 1):  # the formula loses signs of zeros, and entries that are tiny beside the base's
        return (tuned if scale else base).to(tuned.dtype, copy=True)
    start = base.double()
    return (start + scale * (tuned.double() - start)).to(tuned.dtype)


def blended_models(
    base: PreTrainedModel, tuned: PreTrainedModel, scales: Sequence[float]
) -> Iterator[tuple[float, PreTrainedModel]]:
    """Yield each share of the change with a float32 model that has it; that is the tuned one, which is overwritten.

    Beside the base and the model that is yielded, the tuned weights are in memory in the type that they came in. Each
    share is rounded to that type, so that what is measured is what can be saved.

    Args:
        base: The base, with the same parameters.
        tuned: The tuned model.
        scales: The shares.

    Raises:
        UserError: The tuned model ties weights that the base does not.
    """
    ends = {name: weight.clone() for name, weight in weights_of(tuned).items()}
    starts = {name: base.get_parameter(name).detach() for name in ends}
    if len(weights_of(base)) > len({weight.data_ptr() for weight in starts.values()}):
        raise UserError(
            "The tuned model shares one matrix between its embeddings and its output layer and the base does not: "
            "there is no model between the two."
        )
    tuned.float()
    for scale in scales:
        for name, weight in weights_of(tuned).items():
            pieces = (tensor.view(-1).split(PIECE) for tensor in (weight, starts[name], ends[name]))
            for target, start, end in zip(*pieces, strict=True):
                target.copy_(blend(start, end, scale))
        yield scale, tuned

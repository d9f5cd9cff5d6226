"""A share of a change, a piece of a stored tensor at a time."""

from __future__ import annotations

import torch

from mofo.deltas.pieces import FLOATS, values_of
from mofo.deltas.stored import Entry
from mofo.errors import UserError
from mofo.models.blending import blend


def blended(name: str, base: bytes, base_entry: Entry | None, tuned: bytes, tuned_entry: Entry, scale: float) -> bytes:
    """Return a piece of a tensor at a share of its change, in the tuned model's type.

    Entries that the base does not have are the tuned model's.

    Args:
        name: Name of the tensor.
        base: Bytes of the piece in the base.
        base_entry: The tensor in the base; None if it does not exist there.
        tuned: Bytes in the tuned model.
        tuned_entry: The tensor there.
        scale: The share c, as for `mofo.models.blending.blend`.

    Raises:
        UserError: The tensor has changed and holds no floating-point numbers.
    """
    if base_entry is None or (base_entry.dtype == tuned_entry.dtype and base == tuned):
        return tuned
    if base_entry.dtype not in FLOATS or tuned_entry.dtype not in FLOATS:
        raise UserError(
            f"{name} is stored as {tuned_entry.dtype}, of which a share cannot be taken: leave out --scale, or give "
            "models in 16 or 32 bits."
        )
    old, new = values_of(base, base_entry.dtype), values_of(tuned, tuned_entry.dtype)
    both = min(len(old), len(new))
    mixed = blend(old[:both], new[:both], scale)
    return bytes(torch.cat([mixed, new[both:]]).view(torch.uint8).numpy().tobytes())

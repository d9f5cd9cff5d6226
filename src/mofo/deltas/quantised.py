"""Changes in 8 bits: an integer for each entry that moved, and a scale for each block of them.

A block is `BLOCK` entries that moved, one after another. Its scale is the largest change in it divided by 127, so that
an integer is off by at most half a scale. All arithmetic is in float64 and rounded once, to the tuned model's type:
every machine restores the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mofo.deltas.bits import decompress

BLOCK = 256
LEVELS = 127


@dataclass
class Rounding:
    """How far a rounded change is from the exact one, as sums over entries.

    Attributes:
        error: Σ(restored − tuned)².
        change: Σ(tuned − base)².
        largest: The largest |restored − tuned|.
    """

    error: float = 0.0
    change: float = 0.0
    largest: float = 0.0

    def add(self, other: Rounding) -> None:
        """Add the sums over other entries."""
        self.error += other.error
        self.change += other.change
        self.largest = max(self.largest, other.largest)

    @property
    def relative(self) -> float:
        """‖restored − tuned‖ / ‖tuned − base‖; 0 where nothing moved."""
        return math.sqrt(self.error / self.change) if self.change else 0.0


def quantise(base: Tensor, tuned: Tensor, where: Tensor) -> tuple[bytes, Tensor, Rounding]:
    """Round the changes of the entries that moved.

    Args:
        base: The base's entries, (entries,).
        tuned: The tuned ones, of the same type.
        where: Positions of those that differ, in ascending order.

    Returns:
        Scales (float32) and then integers (int8) as bytes; the entries that they lead to; and how far these are off.
    """
    old, new = base[where].double(), tuned[where].double()
    blocks = _blocks(new - old)
    scales = (blocks.abs().amax(dim=1) / LEVELS).float()
    steps = torch.where(scales > 0, scales, 1).double()  # a change below the smallest float32 is none
    integers = (blocks / steps[:, None]).round().clamp(-LEVELS, LEVELS).to(torch.int8).flatten()[: len(where)]
    restored = _restore(base, where, scales, integers)
    off = restored[where].double() - new
    rounding = Rounding(
        float(off.square().sum()), float((new - old).square().sum()), float(off.abs().max()) if len(off) else 0.0
    )
    return scales.numpy().tobytes() + integers.numpy().tobytes(), restored, rounding


def restore(base: Tensor, where: Tensor, values: bytes) -> Tensor:
    """Return the entries that rounded changes lead to.

    Args:
        base: The base's entries in the type of the tuned ones, (entries,).
        where: Positions of those that moved.
        values: What `quantise` returned, compressed.

    Raises:
        ValueError: The values are damaged.
    """
    blocks = -(-len(where) // BLOCK)
    content = decompress(values, 4 * blocks + len(where))
    scales = torch.from_numpy(np.frombuffer(content, "<f4", blocks).copy())
    return _restore(base, where, scales, torch.from_numpy(np.frombuffer(content, np.int8, offset=4 * blocks).copy()))


def _restore(base: Tensor, where: Tensor, scales: Tensor, integers: Tensor) -> Tensor:
    result = base.clone()
    changes = (_blocks(integers.double()) * scales.double()[:, None]).flatten()[: len(where)]
    result[where] = (base[where].double() + changes).to(base.dtype)
    return result


def _blocks(values: Tensor) -> Tensor:
    """Return values in rows of `BLOCK`, the last filled up with zeros."""
    return torch.nn.functional.pad(values, (0, -len(values) % BLOCK)).view(-1, BLOCK)

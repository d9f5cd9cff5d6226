"""The step of groups whose tensors are one block together: Algorithm 1, with one selection from all of their entries.

Everything but the selection is the specification's, tensor by tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mofo.optim.kernels.plain.threshold import INTEGER, chunks, find_threshold
from mofo.optim.rule.blocks import selected_count
from mofo.optim.rule.update import dither_of, move, rank, update_moments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from mofo.optim.grad_scaler import GradScale
    from mofo.optim.rule.types import Operands, Rule


class TogetherStep:
    """The groups of one step whose tensors are one block.

    Args:
        scale: what `torch.amp.GradScaler` says of the gradients.
    """

    def __init__(self, scale: GradScale) -> None:
        self._scale = scale
        self._groups: dict[int, tuple[list[Operands], Rule]] = {}

    def add(self, operands: Operands, rule: Rule, group: int) -> None:
        """Take a tensor of a group, given by its number."""
        if not self._scale.overflowed:
            tensors, _ = self._groups.setdefault(group, ([], rule))
            tensors.append(operands._replace(grad=self._scale.unscaled(operands.grad)))

    def run(self) -> None:
        """Update the tensors that were added."""
        for tensors, rule in self._groups.values():
            update_together(tensors, rule)


def update_together(tensors: Sequence[Operands], rule: Rule) -> None:
    """Make one step of several tensors that are one block, in place."""
    rankings = []
    for operands in tensors:
        operands.step.add_(1)
        grad = update_moments(operands, rule)
        rankings.append(rank(operands, rule, grad, int(operands.step)))
    for operands, selected in zip(tensors, _select(rankings, rule.fraction), strict=True):
        t = int(operands.step)
        move(operands, rule, selected, t, dither_of(operands, rule, t))


def _select(rankings: Sequence[Tensor], fraction: float) -> list[Tensor]:
    """Return FLT_α of the row of all entries: the k highest scores, of equal ones the first; bool, shape by shape."""
    row = torch.cat([ranking.flatten() for ranking in rankings])
    keys = row.view(INTEGER[row.itemsize])
    n = keys.numel()
    threshold = find_threshold(keys.__getitem__, n, selected_count(fraction, n))
    for piece in chunks(n):
        threshold.mark_(keys[piece], piece.start)
    parts = keys.ne(0).split([ranking.numel() for ranking in rankings])
    return [part.view(ranking.shape) for part, ranking in zip(parts, rankings, strict=True)]

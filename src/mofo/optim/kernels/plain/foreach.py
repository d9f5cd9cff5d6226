"""The fast path in plain torch, for every device: the results of the specification in less time and memory.

Moments are updated as there. The rest of a large block is done in pieces that stay in the cache, in scratch memory that
all tensors of a step share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mofo.optim.kernels.plain.threshold import CHUNK, INTEGER, chunks, find_threshold
from mofo.optim.rule.rounding import Dither, round_at_random, rounding_key, rounds_at_random, square_root
from mofo.optim.rule.scores import noise, noise_key, scores
from mofo.optim.rule.update import update, update_moments

if TYPE_CHECKING:
    from torch import Tensor

    from mofo.optim.kernels import Execution
    from mofo.optim.rule.types import Operands, Rule

SMALL = 4096  # entries of a block, below which the specification costs no more


class ForeachStep:
    """The tensors of one step that the fast path in plain torch updates."""

    unscales = False

    def __init__(self) -> None:
        self._added: list[tuple[Operands, Rule]] = []
        self._scratch: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def serves(self, operands: Operands, rule: Rule, execution: Execution) -> bool:
        """Check that the group does not forbid it with `foreach=False`."""
        return execution.foreach is not False

    def add(self, operands: Operands, rule: Rule, execution: Execution) -> None:
        """Take a tensor."""
        self._added.append((operands, rule))

    def run(self) -> None:
        """Update the tensors that were added."""
        for operands, rule in self._added:
            if _has_large_blocks(operands, rule):
                _update_large_blocks(operands, rule, self._scratch_for(operands.exp_avg))
            else:
                update(operands, rule)

    def _scratch_for(self, moment: Tensor) -> Tensor:
        key = moment.device, moment.dtype
        if key not in self._scratch:
            self._scratch[key] = moment.new_empty((3, CHUNK))
        return self._scratch[key]


def _has_large_blocks(operands: Operands, rule: Rule) -> bool:
    n, k = rule.sizes(operands.param)
    in_order = (operands.param, operands.exp_avg, operands.exp_avg_sq)
    return k < n and n >= SMALL and all(tensor.is_contiguous() for tensor in in_order)


def _update_large_blocks(operands: Operands, rule: Rule, scratch: Tensor) -> None:
    """Update a tensor with large blocks, contiguous but for its gradient; `scratch` is (3, CHUNK), as its moments."""
    operands.step.add_(1)
    numbers = _Numbers(operands, rule)
    grad = update_moments(operands, rule)
    if rule.decay == "all":
        operands.param.mul_(numbers.shrink_all)
    tensors = (operands.param, grad, operands.exp_avg, operands.exp_avg_sq)
    rows = zip(*(tensor.reshape(rule.blocks, numbers.n) for tensor in tensors), strict=True)
    for block, (param, g, m, v) in enumerate(rows):
        _Block(param, g, m, v, block * numbers.n, numbers, scratch).update()


class _Numbers:
    """What the blocks of a tensor have in common in a step."""

    def __init__(self, operands: Operands, rule: Rule) -> None:
        t = int(operands.step)
        beta1, beta2 = rule.betas
        self.n, self.k = rule.sizes(operands.param)
        self.score = rule.score
        self.noise_key = noise_key(operands.seed, t)
        self.rounding_key = rounding_key(operands.seed, t)
        self.rounds_at_random = rounds_at_random(rule.rounding, operands.param)
        self.shrink_all = float(1 - rule.lr * rule.weight_decay)
        self.shrink = 1.0 if rule.decay == "all" else self.shrink_all  # of the selected
        self.correction = (1 - beta2**t) ** 0.5
        self.eps = rule.eps
        self.step_size = float(rule.lr / (1 - beta1**t))


@dataclass
class _Block:
    """A block whose moments are up to date."""

    param: Tensor  # (n,)
    grad: Tensor  # (n,), as it entered the moments
    exp_avg: Tensor  # (n,)
    exp_avg_sq: Tensor  # (n,)
    first: int  # row-major index in the tensor of its first entry
    numbers: _Numbers
    scratch: Tensor  # (3, CHUNK), of the type of the moments

    def update(self) -> None:
        """Update the k entries with the highest score."""
        n, k = self.numbers.n, self.numbers.k
        threshold = find_threshold(self._keys, n, k)
        for piece in chunks(n):
            self._move(piece, threshold.mark_(self._keys(piece), piece.start))

    def _keys(self, piece: slice) -> Tensor:
        """Return the scores of a piece as integers of the same order, in scratch memory."""
        exp_avg = self.exp_avg[piece]
        out = self.scratch[0, : exp_avg.numel()]
        score = self.numbers.score
        if score == "momentum":
            torch.abs(exp_avg, out=out)  # a NaN keeps the highest rank by itself
        else:
            noises = None
            if score == "random":
                noises = noise(self._indices(piece), self.numbers.noise_key, exp_avg.dtype)
            out.copy_(scores(score, self.grad[piece], exp_avg, self.exp_avg_sq[piece], noises))
        return out.view(INTEGER[out.itemsize])

    def _move(self, piece: slice, selected: Tensor) -> None:
        """Update the entries of a piece where `selected` is −1."""
        numbers = self.numbers
        old = self.param[piece]
        denominator, moved = self.scratch[1:, : old.numel()]
        square_root(self.exp_avg_sq[piece], out=denominator).div_(numbers.correction).add_(numbers.eps)
        decayed = old
        if numbers.shrink != 1 or old.dtype != moved.dtype:
            decayed = moved.copy_(old).mul_(numbers.shrink)
        torch.addcdiv(decayed, self.exp_avg[piece], denominator, value=-numbers.step_size, out=moved)
        if numbers.rounds_at_random:
            new = round_at_random(moved, Dither(self._indices(piece), numbers.rounding_key))
        else:
            new = moved.to(old.dtype)
        _write(old, new, selected)

    def _indices(self, piece: slice) -> Tensor:
        """Return the row-major index in the tensor of the entries of a piece."""
        start, stop, stride = piece.indices(self.numbers.n)
        return torch.arange(self.first + start, self.first + stop, stride, device=self.param.device)


def _write(old: Tensor, new: Tensor, selected: Tensor) -> None:
    """Set old to new where `selected` is −1; where it is 0 every bit stays. On a CPU faster than `torch.where`."""
    integer = INTEGER[old.itemsize]
    bits = old.view(integer)
    bits.bitwise_xor_(new.view(integer).bitwise_xor_(bits).bitwise_and_(selected.to(integer)))

"""The fast path in plain torch: the results of ``update.py`` for many tensors, in less time and memory.

The moments are updated as there. The rest is done in pieces that stay in the cache, in scratch memory that the tensors
share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mofo.optim.kernels.plain.threshold import CHUNK, INTEGER, chunks, find_threshold
from mofo.optim.rule.blocks import block_size, selected_count
from mofo.optim.rule.rounding import is_random, round_at_random, rounding_key, square_root
from mofo.optim.rule.scores import noise, noise_key, scores
from mofo.optim.rule.update import update

if TYPE_CHECKING:
    from torch import Tensor

    from mofo.optim.rule.rounding import Rounding
    from mofo.optim.rule.scores import Score
    from mofo.optim.rule.update import Decay

SMALL = 4096  # entries of a block, below which the plain update costs no more


def multi_tensor_update(tensors: list[tuple[Any, ...]], **options: Any) -> None:
    """:func:`mofo.optim.rule.update.update` of each of the tuples of tensors, bit for bit; works in place."""
    scratch: dict[tuple[torch.device, torch.dtype], Tensor] = {}
    for operands in tensors:
        param, _, exp_avg, exp_avg_sq, *_ = operands
        n = block_size(param, options["blocks"])
        k = selected_count(options["fraction"], n)
        in_order = all(tensor.is_contiguous() for tensor in (param, exp_avg, exp_avg_sq))
        if k < n and n >= SMALL and in_order:
            kind = (param.device, exp_avg.dtype)
            if kind not in scratch:
                scratch[kind] = torch.empty((3, CHUNK), dtype=exp_avg.dtype, device=param.device)
            _update(*operands, n=n, k=k, scratch=scratch[kind], **options)
        else:
            update(*operands, **options)


def _update(
    param: Tensor,  # θ: any floating type, contiguous
    grad: Tensor,  # g: as param, any strides
    exp_avg: Tensor,  # m: shape of param, float32 or float64, contiguous
    exp_avg_sq: Tensor,  # v: as exp_avg
    step: Tensor,  # t: scalar, number of steps before this one
    seed: int,  # only for score="random" and rounding="stochastic"
    *,
    n: int,  # entries of a block
    k: int,  # how many of them move
    scratch: Tensor,  # (3, CHUNK), type of exp_avg
    lr: float | Tensor,
    fraction: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    blocks: int,
    score: Score,
    decay: Decay,
    maximize: bool,
    rounding: Rounding,
) -> None:
    beta1, beta2 = betas
    step += 1
    t = step.item()
    grad = (-grad if maximize else grad).to(exp_avg.dtype)

    # Moments, of every entry
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)

    key = noise_key(seed, int(t)) if score == "random" else 0
    shrink = float(1 - lr * weight_decay)
    correction = (1 - beta2**t) ** 0.5
    step_size = float(lr / (1 - beta1**t))
    if decay == "all":
        param.mul_(shrink)
        shrink = 1.0
    tensors = [tensor.reshape(blocks, n) for tensor in (param, grad, exp_avg, exp_avg_sq)]
    for block, (theta, g, m, v) in enumerate(zip(*tensors, strict=True)):

        def keys(piece: slice, first: int = block * n, g: Tensor = g, m: Tensor = m, v: Tensor = v) -> Tensor:
            part = m[piece]
            out = scratch[0, : part.numel()]
            if score == "momentum":
                torch.abs(part, out=out)  # a NaN keeps the highest rank by itself
            else:
                noises = None
                if score == "random":
                    noises = noise(_indices(piece, first, part.device), key, part.dtype)
                out.copy_(scores(score, g[piece], part, v[piece], noises))
            return out.view(INTEGER[out.itemsize])

        # Filter: the k entries with the highest score
        threshold = find_threshold(keys, n, k)

        # Update of the selected
        for piece in chunks(n):
            selected = threshold.mark_(keys(piece), piece.start)
            old = theta[piece]
            denominator, moved = scratch[1:, : old.numel()]
            square_root(v[piece], out=denominator).div_(correction).add_(eps)
            decayed = old
            if shrink != 1 or old.dtype != moved.dtype:
                decayed = moved.copy_(old).mul_(shrink)
            torch.addcdiv(decayed, m[piece], denominator, value=-step_size, out=moved)
            if is_random(rounding, param):
                index = _indices(piece, block * n, moved.device)
                new = round_at_random(moved, index, rounding_key(seed, int(t)))
            else:
                new = moved.to(old.dtype)
            _write(old, new, selected)


def _indices(piece: slice, first: int, device: torch.device) -> Tensor:
    return torch.arange(first + piece.start, first + piece.stop, piece.step or 1, device=device)


def _write(old: Tensor, new: Tensor, selected: Tensor) -> None:
    """Set old to new where ``selected`` is −1; where it is 0 every bit stays. On a CPU faster than ``torch.where``."""
    integer = INTEGER[old.itemsize]
    bits = old.view(integer)
    bits.bitwise_xor_(new.view(integer).bitwise_xor_(bits).bitwise_and_(selected.to(integer)))

"""The fast path in plain torch: the results of ``update.py`` for many tensors, in less time and memory.

The moments are updated as there; all else is done in pieces that stay in the cache, in scratch memory that the
tensors share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mofo.optim.blocks import block_size, selected_count
from mofo.optim.selection import noise_like, scores
from mofo.optim.threshold import CHUNK, INTEGER, chunks, find_threshold
from mofo.optim.update import update

if TYPE_CHECKING:
    from torch import Tensor

    from mofo.optim.selection import Score
    from mofo.optim.threshold import Threshold
    from mofo.optim.update import Decay

SMALL = 4096  # entries of a block, below which the plain update costs no more


def multi_tensor_update(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],
    seeds: list[int],
    **options: Any,
) -> None:
    """:func:`mofo.optim.update.update` of each tensor, bit for bit; takes its options and works in place."""
    scratch: dict[tuple[torch.device, torch.dtype], Tensor] = {}
    for param, grad, exp_avg, exp_avg_sq, step, seed in zip(
        params, grads, exp_avgs, exp_avg_sqs, steps, seeds, strict=True
    ):
        n = block_size(param, options["blocks"])
        k = selected_count(options["fraction"], n)
        rows_lie_in_order = all(t.is_contiguous() for t in (param, exp_avg, exp_avg_sq))
        if k == n or n < SMALL or not rows_lie_in_order:
            update(param, grad, exp_avg, exp_avg_sq, step, seed, **options)
            continue
        key = (param.device, exp_avg.dtype)
        if key not in scratch:
            scratch[key] = torch.empty((3, CHUNK), dtype=exp_avg.dtype, device=param.device)
        _update(param, grad, exp_avg, exp_avg_sq, step, seed, n, k, scratch[key], **options)


def _update(
    param: Tensor,  # θ: any floating type, contiguous
    grad: Tensor,  # g: as param, any strides
    exp_avg: Tensor,  # m: shape of param, float32 or float64, contiguous
    exp_avg_sq: Tensor,  # v: as exp_avg
    step: Tensor,  # t: scalar, number of steps before this one
    seed: int,
    n: int,  # entries of a block
    k: int,  # how many of them move
    scratch: Tensor,  # (3, CHUNK), type of exp_avg
    *,
    lr: float | Tensor,
    fraction: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    blocks: int,
    score: Score,
    decay: Decay,
    maximize: bool,
) -> None:
    beta1, beta2 = betas
    step += 1
    t = step.item()
    grad = (-grad if maximize else grad).to(exp_avg.dtype)

    # Moments, of every entry
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)

    noise = noise_like(exp_avg, seed, int(t)) if score == "random" else exp_avg
    infinity = int(torch.tensor(torch.inf, dtype=exp_avg.dtype).view(INTEGER[exp_avg.itemsize]))
    shrink = float(1 - lr * weight_decay)
    correction = (1 - beta2**t) ** 0.5
    step_size = float(lr / (1 - beta1**t))
    flat = [tensor.reshape(blocks, n) for tensor in (param, grad, exp_avg, exp_avg_sq, noise)]
    for theta, g, m, v, random in zip(*flat, strict=True):

        def keys(piece: slice, g: Tensor = g, m: Tensor = m, v: Tensor = v, random: Tensor = random) -> Tensor:
            part = m[piece]
            out = scratch[0, : part.numel()]
            if score == "momentum":
                torch.abs(part, out=out)
            else:
                out.copy_(scores(score, g[piece], part, v[piece], random[piece]))
            return out.view(INTEGER[out.itemsize])

        # Filter: the k entries with the highest score
        threshold = find_threshold(keys, n, k, infinity)

        # Update of the selected
        for piece in chunks(n):
            selected = threshold.mark_(keys(piece), piece.start)
            old = theta[piece]
            denominator, moved = scratch[1:, : old.numel()]
            torch.sqrt(v[piece], out=denominator).div_(correction).add_(eps)
            decayed = old
            if shrink != 1 or old.dtype != moved.dtype:
                decayed = moved.copy_(old).mul_(shrink)
                if decay == "all":
                    old.copy_(decayed)
            torch.addcdiv(decayed, m[piece], denominator, value=-step_size, out=moved)
            _write(old, moved.to(old.dtype), selected)


def _write(old: Tensor, new: Tensor, selected: Tensor) -> None:
    """old ← new where ``selected`` is −1; where it is 0 every bit stays. Faster than ``torch.where`` on a CPU."""
    integer = INTEGER[old.itemsize]
    bits = old.view(integer)
    bits.bitwise_xor_(new.view(integer).bitwise_xor_(bits).bitwise_and_(selected.to(integer)))

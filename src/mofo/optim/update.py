"""The update rule for one tensor in plain torch: the specification that every other back end must equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mofo.optim.blocks import as_blocks, block_size, selected_count
from mofo.optim.selection import scores, select_top_k

if TYPE_CHECKING:
    from torch import Tensor

    from mofo.optim.selection import Score


def update(
    param: Tensor,  # any floating type, any strides
    grad: Tensor,  # as param
    exp_avg: Tensor,  # m: shape of param; float32 or float64
    exp_avg_sq: Tensor,  # v: as exp_avg
    step: Tensor,  # t: scalar float32
    *,
    seed: int,
    lr: float | Tensor,
    fraction: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    blocks: int,
    score: Score,
    decay: str,
    maximize: bool,
) -> None:
    """Algorithm 1 of the paper with the decoupled weight decay of AdamW; changes its tensors in place.

    With ``fraction=1`` these are the operations of ``torch.optim.AdamW(foreach=False)`` in their order.
    """
    beta1, beta2 = betas
    step += 1
    t = step.item()
    grad = (-grad if maximize else grad).to(exp_avg.dtype)

    # Moments, of every entry: m ← β1·m + (1−β1)·g, v ← β2·v + (1−β2)·g∘g
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)

    # Filter: the k entries of each block with the highest score
    n = block_size(param, blocks)
    k = selected_count(fraction, n)
    if k < n:
        ranking = scores(score, grad, exp_avg, exp_avg_sq, seed=seed, step=int(t))
        selected = select_top_k(as_blocks(ranking, blocks), k).view(param.shape)
    else:
        selected = torch.ones_like(param, dtype=torch.bool)

    # Update: θ ← (1 − η·λ)·θ − η·m̂ / (√v̂ + ε), where m̂ = m/(1−β1^t) and v̂ = v/(1−β2^t)
    decayed = param.to(exp_avg.dtype) * float(1 - lr * weight_decay)
    denominator = (exp_avg_sq.sqrt() / (1 - beta2**t) ** 0.5).add_(eps)
    moved = decayed.addcdiv(exp_avg, denominator, value=-float(lr / (1 - beta1**t)))
    kept = decayed if decay == "all" and weight_decay else param.to(exp_avg.dtype)
    param.copy_(torch.where(selected, moved, kept))

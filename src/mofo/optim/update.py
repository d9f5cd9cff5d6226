"""The update rule for one tensor in plain torch: the specification that every other back end must equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from mofo.optim.blocks import as_blocks, block_size, selected_count
from mofo.optim.rounding import is_random, round_at_random, rounding_key, square_root
from mofo.optim.selection import noise, noise_key, scores, select_top_k

if TYPE_CHECKING:
    from torch import Tensor

    from mofo.optim.rounding import Rounding
    from mofo.optim.selection import Score

Decay = Literal["selected", "all"]


def update(
    param: Tensor,  # θ: any floating type, any strides
    grad: Tensor,  # g: as param
    exp_avg: Tensor,  # m: shape of param, float32 or float64
    exp_avg_sq: Tensor,  # v: as exp_avg
    step: Tensor,  # t: scalar, number of steps before this one
    seed: int,  # only for score="random" and rounding="stochastic"
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
    rounding: Rounding,
) -> None:
    """Algorithm 1 of the paper (section 3.2) with AdamW's decoupled weight decay; works in place.

    With ``fraction=1`` these are the operations of ``torch.optim.AdamW(fused=True)`` on a CPU, to the bit but for the
    last entries of a tensor, where torch's rounds otherwise.
    """
    beta1, beta2 = betas
    step += 1
    t = step.item()
    grad = (-grad if maximize else grad).to(exp_avg.dtype)

    # Moments, of every entry: m ← β1·m + (1−β1)·g, v ← β2·v + (1−β2)·g∘g
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)

    # Filter: in each block the k entries with the highest score
    n = block_size(param, blocks)
    k = selected_count(fraction, n)
    if k < n:
        noises = None
        if score == "random":
            index = torch.arange(param.numel(), device=param.device).view(param.shape)
            noises = noise(index, noise_key(seed, int(t)), exp_avg.dtype)
        ranking = scores(score, grad, exp_avg, exp_avg_sq, noises)
        selected = select_top_k(as_blocks(ranking, blocks), k).view(param.shape)
    else:
        selected = torch.ones_like(param, dtype=torch.bool)

    # Update of the selected: θ ← (1 − η·λ)·θ − η·m̂ / (√v̂ + ε), with m̂ = m/(1−β1^t) and v̂ = v/(1−β2^t)
    shrink = float(1 - lr * weight_decay)
    if decay == "all":
        param.mul_(shrink)
        shrink = 1.0
    old = param.to(exp_avg.dtype)
    denominator = (square_root(exp_avg_sq) / (1 - beta2**t) ** 0.5).add_(eps)
    moved = (old * shrink).addcdiv_(exp_avg, denominator, value=-float(lr / (1 - beta1**t)))
    if is_random(rounding, param):
        index = torch.arange(param.numel(), device=param.device).view(param.shape)
        new = round_at_random(moved, index, rounding_key(seed, int(t)))
    else:
        new = moved.to(param.dtype)
    param.copy_(torch.where(selected, new, param))

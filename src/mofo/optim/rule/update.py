"""The update rule for one tensor in plain torch: the specification that every other back end must equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from mofo.optim.rule.blocks import as_blocks, block_size, selected_count
from mofo.optim.rule.rounding import is_random, round_at_random, rounding_key, square_root
from mofo.optim.rule.scores import noise, noise_key, scores, select_top_k

if TYPE_CHECKING:
    from torch import Tensor

    from mofo.optim.rule.rounding import Rounding
    from mofo.optim.rule.scores import Score

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
    step += 1
    t = int(step)
    grad = update_moments(grad, exp_avg, exp_avg_sq, betas=betas, maximize=maximize)

    # Filter: in each block the k entries with the highest score
    n = block_size(param, blocks)
    k = selected_count(fraction, n)
    if k < n:
        noises = None
        if score == "random":
            noises = noise(_indices(param), noise_key(seed, t), exp_avg.dtype)
        ranking = scores(score, grad, exp_avg, exp_avg_sq, noises)
        selected = select_top_k(as_blocks(ranking, blocks), k).view(param.shape)
    else:
        selected = torch.ones_like(param, dtype=torch.bool)

    randomness = None
    if is_random(rounding, param):
        randomness = _indices(param), rounding_key(seed, t)
    move(
        param, exp_avg, exp_avg_sq, selected, t, randomness,
        lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, decay=decay,
    )  # fmt: skip


def update_moments(
    grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, *, betas: tuple[float, float], maximize: bool
) -> Tensor:
    """Moments, of every entry: m ← β1·m + (1−β1)·g, v ← β2·v + (1−β2)·g∘g. Returns g as it was used."""
    beta1, beta2 = betas
    grad = (-grad if maximize else grad).to(exp_avg.dtype)
    exp_avg.lerp_(grad, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    return grad


def move(
    param: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    selected: Tensor,  # bool, shape of param
    t: int,  # number of this step, from 1
    randomness: tuple[Tensor, int] | None,  # flat indices in the tensor and the key, to round at random
    *,
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decay: Decay,
) -> None:
    """Update of the selected: θ ← (1 − η·λ)·θ − η·m̂ / (√v̂ + ε), with m̂ = m/(1−β1^t) and v̂ = v/(1−β2^t)."""
    beta1, beta2 = betas
    shrink = float(1 - lr * weight_decay)
    if decay == "all":
        param.mul_(shrink)
        shrink = 1.0
    old = param.to(exp_avg.dtype)
    denominator = (square_root(exp_avg_sq) / (1 - beta2**t) ** 0.5).add_(eps)
    moved = (old * shrink).addcdiv_(exp_avg, denominator, value=-float(lr / (1 - beta1**t)))
    new = moved.to(param.dtype) if randomness is None else round_at_random(moved, *randomness)
    param.copy_(torch.where(selected, new, param))


def _indices(param: Tensor) -> Tensor:
    """The flat index of each entry; int64, shape of param."""
    return torch.arange(param.numel(), device=param.device).view(param.shape)

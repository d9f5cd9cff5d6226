"""Algorithm 1 of the paper for one tensor, in plain torch: the specification that every other back end must equal.

With the parameter θ, its gradient g, and the moments m and v, all of one shape that is cut into B blocks of n entries:

    t ← t + 1
    m ← β1·m + (1 − β1)·g                     moments, of every entry
    v ← β2·v + (1 − β2)·g∘g
    m̂ ← m / (1 − β1^t)                        bias corrections
    v̂ ← v / (1 − β2^t)
    FLT_α(m) ← 1 for the k entries of each block with the highest score |m|, else 0;  k = max(1, ⌊α·n⌋)
    θ ← θ − η·(λ·θ + m̂ / (√v̂ + ε)) ∘ FLT_α(m)

Chen et al., "MoFO: Momentum-Filtered Optimizer for Mitigating Forgetting in LLM Fine-Tuning" (arXiv 2407.20999),
section 3.2, with the decoupled weight decay λ of AdamW.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mofo.optim.rule.blocks import as_blocks
from mofo.optim.rule.rounding import Dither, round_at_random, rounding_key, rounds_at_random, square_root
from mofo.optim.rule.scores import noise, noise_key, scores, select_top_k

if TYPE_CHECKING:
    from torch import Tensor

    from mofo.optim.rule.types import Operands, Rule


def update(operands: Operands, rule: Rule) -> None:
    """Make one step of one tensor, in place.

    With `fraction=1` these are the operations of `torch.optim.AdamW(fused=True)` on a CPU, to the bit but for the last
    entries of a tensor, which torch rounds otherwise.
    """
    operands.step.add_(1)
    t = int(operands.step)
    grad = update_moments(operands, rule)
    selected = select(operands, rule, grad, t)
    move(operands, rule, selected, t, dither_of(operands, rule, t))


def update_moments(operands: Operands, rule: Rule) -> Tensor:
    """Update the moments of every entry: m ← β1·m + (1 − β1)·g and v ← β2·v + (1 − β2)·g∘g.

    Returns:
        g as it entered them: negated to maximize, in the type of the moments.
    """
    beta1, beta2 = rule.betas
    grad = (-operands.grad if rule.maximize else operands.grad).to(operands.exp_avg.dtype)
    operands.exp_avg.lerp_(grad, 1 - beta1)
    operands.exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    return grad


def select(operands: Operands, rule: Rule, grad: Tensor, t: int) -> Tensor:
    """Return FLT_α, the k entries of each block with the highest score: bool, shape of the parameter.

    Args:
        operands: with moments that are up to date.
        rule: of the update.
        grad: g as it entered the moments.
        t: number of this step, from 1.
    """
    param = operands.param
    n, k = rule.sizes(param)
    if k == n:
        return torch.ones_like(param, dtype=torch.bool)
    return select_top_k(as_blocks(rank(operands, rule, grad, t), rule.blocks), k).view(param.shape)


def rank(operands: Operands, rule: Rule, grad: Tensor, t: int) -> Tensor:
    """Return the scores of all entries, by which those of a block are ranked; shape and arguments as `select`."""
    param, _, exp_avg, exp_avg_sq, _, seed = operands
    noises = noise(_indices(param), noise_key(seed, t), exp_avg.dtype) if rule.score == "random" else None
    return scores(rule.score, grad, exp_avg, exp_avg_sq, noises)


def dither_of(operands: Operands, rule: Rule, t: int) -> Dither | None:
    """Return what decides how new values are rounded at random in step t; None where they are not."""
    if not rounds_at_random(rule.rounding, operands.param):
        return None
    return Dither(_indices(operands.param), rounding_key(operands.seed, t))


def move(operands: Operands, rule: Rule, selected: Tensor, t: int, dither: Dither | None) -> None:
    """Update the selected entries: θ ← (1 − η·λ)·θ − η·m̂ / (√v̂ + ε), with m̂ = m/(1 − β1^t) and v̂ = v/(1 − β2^t).

    Args:
        operands: with moments that are up to date.
        rule: of the update. With `decay="all"` the factor (1 − η·λ) acts on every entry.
        selected: bool, shape of the parameter.
        t: number of this step, from 1.
        dither: to round new values at random; None rounds them to the nearest.
    """
    param, _, exp_avg, exp_avg_sq, *_ = operands
    beta1, beta2 = rule.betas
    shrink = float(1 - rule.lr * rule.weight_decay)
    if rule.decay == "all":
        param.mul_(shrink)
        shrink = 1.0
    old = param.to(exp_avg.dtype)
    denominator = (square_root(exp_avg_sq) / (1 - beta2**t) ** 0.5).add_(rule.eps)
    moved = (old * shrink).addcdiv_(exp_avg, denominator, value=-float(rule.lr / (1 - beta1**t)))
    new = moved.to(param.dtype) if dither is None else round_at_random(moved, dither)
    param.copy_(torch.where(selected, new, param))


def _indices(param: Tensor) -> Tensor:
    """Return the row-major index of each entry; int64, shape of param."""
    return torch.arange(param.numel(), device=param.device).view(param.shape)

"""Scores that rank the entries of a block, and the exact choice of the k highest (FLT_α of the paper)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

import torch

from mofo.optim.rule.hashing import NOISE, hash_indices, hash_key
from mofo.optim.rule.rounding import square_root

if TYPE_CHECKING:
    from torch import Tensor

Score = Literal["momentum", "gradient", "momentum_over_rms", "random"]
SCORES: tuple[str, ...] = get_args(Score)


def noise_key(seed: int, step: int) -> int:
    """64 bits that depend on ``seed`` and ``step`` alone, for the noise of one tensor in one step."""
    return hash_key(seed, step, NOISE)


def noise(index: Tensor, key: int, dtype: torch.dtype) -> Tensor:
    """Uniform noise in [0, 1) for the entries with these flat indices (int64) of a tensor."""
    return (hash_indices(index, key) >> 8).to(dtype).mul_(2.0**-24)


def scores(kind: Score, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, noises: Tensor | None) -> Tensor:
    """What ranks the entries: a non-negative number for each, element by element.

    ``"momentum"`` is |m| (Algorithm 1); ``"gradient"`` is |g|; ``"momentum_over_rms"`` is |m|/√v with 0/0 = 0
    (the bias corrections of m̂/√v̂ are the same for all entries and do not change their order); ``"random"`` is
    ``noises``, which only it needs.

    An entry whose momentum is not finite scores infinity, and no other does: a non-finite gradient stays in the
    momentum for good, and such an entry must move for it to be seen.
    """
    if kind == "momentum":
        score = exp_avg.abs()
    elif kind == "gradient":
        score = grad.abs()
    elif kind == "momentum_over_rms":
        largest = torch.finfo(exp_avg.dtype).max  # v underflows to 0 before m does
        score = exp_avg.abs().div_(square_root(exp_avg_sq)).nan_to_num_(nan=0.0, posinf=largest)
    else:
        assert noises is not None
        score = noises.clone()
    return score.masked_fill_(~exp_avg.isfinite(), math.inf)


def select_top_k(score: Tensor, k: int) -> Tensor:
    """Choose the k highest scores of each row; of equal scores the first ones.

    Args:
        score: (blocks, n), without NaN.
        k: how many to choose in each row, 1 <= k <= n.

    Returns:
        (blocks, n) bool, exactly k true in each row. Only infinite scores are all chosen, also beyond k.
    """
    n = score.shape[1]
    threshold = torch.kthvalue(score, n - k + 1, dim=1, keepdim=True).values
    above = score > threshold
    tied = score == threshold
    room = k - above.sum(dim=1, keepdim=True)
    return above | (tied & ((tied.cumsum(dim=1) <= room) | threshold.isinf()))

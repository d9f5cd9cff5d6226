"""Scores that rank the entries of a block, and the exact selection of the k highest (FLT_α of the paper)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, get_args

import torch

from mofo.optim.rule.hashing import NOISE, hash_indices, hash_key
from mofo.optim.rule.rounding import square_root
from mofo.optim.rule.types import Score

if TYPE_CHECKING:
    from torch import Tensor

SCORES: tuple[Score, ...] = get_args(Score)


def noise_key(seed: int, step: int) -> int:
    """Return 64 bits that depend on `seed` and `step` alone, for the random scores of one tensor in one step."""
    return hash_key(seed, step, NOISE)


def noise(index: Tensor, key: int, dtype: torch.dtype) -> Tensor:
    """Return uniform noise in [0, 1) for the entries of a tensor with these row-major indices (int64).

    `key` is the `noise_key` of the tensor and step.
    """
    return (hash_indices(index, key) >> 8).to(dtype).mul_(2.0**-24)


def scores(score: Score, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, noises: Tensor | None) -> Tensor:
    """Return a non-negative number for each entry, by which the entries of a block are ranked.

    - `"momentum"`: |m|, as in Algorithm 1.
    - `"gradient"`: |g|.
    - `"momentum_over_rms"`: |m|/√v with 0/0 = 0. The bias corrections of |m̂|/√v̂ are the same for all entries and do
      not change their order.
    - `"random"`: `noises`, which the other scores do not need.

    An entry whose momentum is not finite scores infinity, and no other does: a non-finite gradient stays in the
    momentum for good, and such an entry must be updated for it to be seen.

    Args:
        score: what ranks the entries.
        grad: g as it entered the moments, any shape.
        exp_avg: m after its update, shape of grad.
        exp_avg_sq: v after its update, shape of grad.
        noises: uniform in [0, 1), shape of grad; or None.

    Returns:
        Shape and type of exp_avg.
    """
    if score == "momentum":
        ranking = exp_avg.abs()
    elif score == "gradient":
        ranking = grad.abs()
    elif score == "momentum_over_rms":
        largest = torch.finfo(exp_avg.dtype).max  # v underflows to 0 before m does
        ranking = exp_avg.abs().div_(square_root(exp_avg_sq)).nan_to_num_(nan=0.0, posinf=largest)
    else:
        assert noises is not None
        ranking = noises.clone()
    return ranking.masked_fill_(~exp_avg.isfinite(), math.inf)


def select_top_k(ranking: Tensor, k: int) -> Tensor:
    """Select the k highest scores of each row; of equal scores the first ones.

    Args:
        ranking: (blocks, n), without NaN.
        k: how many to select in each row, 1 <= k <= n.

    Returns:
        (blocks, n) bool, exactly k true in each row; but infinite scores are all selected, also beyond k.
    """
    n = ranking.shape[1]
    threshold = torch.kthvalue(ranking, n - k + 1, dim=1, keepdim=True).values
    above = ranking > threshold
    tied = ranking == threshold
    room = k - above.sum(dim=1, keepdim=True)
    return above | (tied & ((tied.cumsum(dim=1) <= room) | threshold.isinf()))

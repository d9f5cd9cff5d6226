"""Scores that rank the entries of a block, and the exact choice of the k highest (FLT_α of the paper)."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Literal, get_args

import torch

if TYPE_CHECKING:
    from torch import Tensor

Score = Literal["momentum", "gradient", "momentum_over_rms", "random"]
SCORES: tuple[Score, ...] = get_args(Score)


def scores(kind: Score, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, *, seed: int, step: int) -> Tensor:
    """What ranks the entries: a non-negative number for each, of the shape of ``exp_avg``.

    ``"momentum"`` is |m| (Algorithm 1), ``"gradient"`` |g|, ``"momentum_over_rms"`` |m|/√v with 0/0 = 0 (the bias
    corrections are the same for all entries and do not change the order), ``"random"`` uniform noise drawn from
    ``seed`` and ``step`` alone.

    An entry whose momentum is not finite scores infinity, and no other does.
    """
    if kind == "momentum":
        score = exp_avg.abs()
    elif kind == "gradient":
        score = grad.abs()
    elif kind == "momentum_over_rms":
        largest = torch.finfo(exp_avg.dtype).max  # v may underflow to 0 where m does not
        score = exp_avg.abs().div_(exp_avg_sq.sqrt()).nan_to_num_(nan=0.0, posinf=largest)
    else:
        # A string seeds Python's generator through SHA-512, the same in every version and process.
        mixed = random.Random(f"{seed}/{step}").getrandbits(32)
        generator = torch.Generator(exp_avg.device).manual_seed(mixed)
        score = torch.rand(exp_avg.shape, generator=generator, dtype=torch.float32, device=exp_avg.device)
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

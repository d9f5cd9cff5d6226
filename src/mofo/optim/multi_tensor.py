"""The fast path in plain torch: the results of ``update.py`` for many tensors, in less time and memory.

The moments are updated as there; all else is done in pieces that stay in the cache, in scratch memory that the
tensors share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mofo.optim.blocks import block_size, selected_count
from mofo.optim.selection import noise_like, scores
from mofo.optim.top_k import INTEGER, RUN, chunks, select_runs
from mofo.optim.update import update

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from mofo.optim.selection import Score
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
    for param, grad, exp_avg, exp_avg_sq, step, seed in zip(
        params, grads, exp_avgs, exp_avg_sqs, steps, seeds, strict=True
    ):
        n = block_size(param, options["blocks"])
        k = selected_count(options["fraction"], n)
        in_order = all(tensor.is_contiguous() for tensor in (param, exp_avg, exp_avg_sq))
        if k < n and n >= SMALL and n % RUN == 0 and in_order:
            _update(param, grad, exp_avg, exp_avg_sq, step, seed, n, k, **options)
        else:
            update(param, grad, exp_avg, exp_avg_sq, step, seed, **options)


def _update(
    param: Tensor,  # θ: any floating type, contiguous
    grad: Tensor,  # g: as param, any strides
    exp_avg: Tensor,  # m: shape of param, float32 or float64, contiguous
    exp_avg_sq: Tensor,  # v: as exp_avg
    step: Tensor,  # t: scalar, number of steps before this one
    seed: int,
    n: int,  # entries of a block
    k: int,  # how many of them move
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
    shrink = float(1 - lr * weight_decay)
    correction = (1 - beta2**t) ** 0.5
    step_size = float(lr / (1 - beta1**t))
    if decay == "all":
        param.mul_(shrink)
        shrink = 1.0
    tensors = [tensor.reshape(blocks, -1, RUN) for tensor in (param, grad, exp_avg, exp_avg_sq, noise)]
    for theta, g, m, v, random in zip(*tensors, strict=True):

        def keys(part_of: Callable[[Tensor], Tensor], g=g, m=m, v=v, random=random) -> Tensor:
            if score == "momentum":
                ranking = part_of(m).abs()
            else:
                ranking = scores(score, part_of(g), part_of(m), part_of(v), part_of(random))
            return ranking.view(INTEGER[ranking.itemsize])

        # Filter: the k entries with the highest score
        runs, chosen = select_runs(keys, n, k)

        # Update of the selected
        for piece in chunks(len(runs)):
            rows = runs[piece]
            old = theta.index_select(0, rows)
            denominator = v.index_select(0, rows).sqrt_().div_(correction).add_(eps)
            moved = old.to(v.dtype) * shrink
            moved.addcdiv_(m.index_select(0, rows), denominator, value=-step_size)
            theta.index_copy_(0, rows, _merge_(old, moved.to(old.dtype), chosen[piece]))


def _merge_(old: Tensor, new: Tensor, chosen: Tensor) -> Tensor:
    """Overwrite ``old`` with ``new`` where ``chosen`` is −1; where it is 0 every bit stays."""
    integer = INTEGER[old.itemsize]
    bits = old.view(integer)
    bits.bitwise_xor_(new.view(integer).bitwise_xor_(bits).bitwise_and_(chosen.to(integer)))
    return old

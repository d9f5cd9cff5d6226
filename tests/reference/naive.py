"""MoFO written as slowly and as plainly as can be: Python numbers, one entry at a time, a sort for each block."""

import math


def naive_step(param, grad, m, v, t, *, lr, fraction, betas, eps, weight_decay, blocks, score, decay, noise=None):
    """One step on flat lists of float64 numbers.

    Args:
        param: θ, a flat list.
        grad: g, as param.
        m: first moment before the step.
        v: second moment before the step.
        t: number of this step, from 1.
        noise: the scores of ``score="random"``.

    Returns:
        The new θ, m and v, and the set of indices that moved.
    """
    beta1, beta2 = betas
    m = [beta1 * a + (1 - beta1) * g for a, g in zip(m, grad, strict=True)]
    v = [beta2 * a + (1 - beta2) * g * g for a, g in zip(v, grad, strict=True)]
    ranking = {
        "momentum": lambda i: abs(m[i]),
        "gradient": lambda i: abs(grad[i]),
        "momentum_over_rms": lambda i: abs(m[i]) / math.sqrt(v[i]) if v[i] else 0.0,
        "random": lambda i: noise[i],
    }[score]
    n = len(param) // blocks
    k = max(1, math.floor(fraction * n + 1e-9))
    moved = set()
    for block in range(blocks):
        indices = range(block * n, (block + 1) * n)
        moved |= set(sorted(indices, key=lambda i: (-ranking(i), i))[:k])
    new = list(param)
    for i in range(len(param)):
        if decay == "all" or i in moved:
            new[i] *= 1 - lr * weight_decay
        if i in moved:
            m_hat = m[i] / (1 - beta1**t)
            v_hat = v[i] / (1 - beta2**t)
            new[i] -= lr * m_hat / (math.sqrt(v_hat) + eps)
    return new, m, v, moved

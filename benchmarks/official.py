"""The update formula of the official code, which the paper's authors published, to compare with."""

import math

import torch


def official_step(param, grad, m, v, t, *, lr, fraction, betas, eps, weight_decay):
    """Make one step by the official update formula, in place: a threshold by top-k, `>=`, and decay of all entries."""
    beta1, beta2 = betas
    param.mul_(1 - lr * weight_decay)
    m.lerp_(grad, 1 - beta1)
    v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    denominator = (v.sqrt() / math.sqrt(1 - beta2**t)).add_(eps)
    threshold = torch.topk(m.abs().flatten(), int(m.numel() * fraction)).values.min()
    param.addcdiv_(torch.where(m.abs() >= threshold, m, 0), denominator, value=-lr / (1 - beta1**t))


class Official:
    """The official update formula behind the interface of an optimizer."""

    def __init__(self, params, fraction):
        self.params, self.fraction, self.t = params, fraction, 0
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in params]

    @torch.no_grad()
    def step(self):
        """One step of all parameters."""
        self.t += 1
        for param, (m, v) in zip(self.params, self.moments, strict=True):
            fraction = max(self.fraction, 1.001 / param.numel())  # int(d * fraction) must not be 0
            options = {"lr": 1e-5, "fraction": fraction, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
            official_step(param, param.grad, m, v, self.t, **options)

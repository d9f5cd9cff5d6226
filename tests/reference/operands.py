"""What the back ends are given when they are compared with the specification, and how their results are compared."""

import io

import torch

OPTIONS = {
    "lr": 1e-2,
    "fraction": 0.05,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.1,
    "blocks": 1,
    "score": "momentum",
    "decay": "selected",
    "maximize": False,
    "rounding": "nearest",
}


def operands(grad, generator=None, start=None):
    """Parameter, gradient, and moments as after a few steps."""
    start = torch.randn(grad.shape, generator=generator) if start is None else start
    exp_avg = grad.float() * torch.rand(grad.shape, generator=generator)
    exp_avg_sq = exp_avg.square() * torch.rand(grad.shape, generator=generator)
    return [start.to(grad.dtype), grad, exp_avg, exp_avg_sq]


def bits(tensor):
    """The bits, with one pattern for all NaN: which one arithmetic gives is left open by IEEE 754 and by torch."""
    integer = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
    return torch.where(tensor.isnan(), torch.full_like(tensor, torch.nan), tensor).contiguous().view(integer)


def through_a_file(state):
    """A state as it is after saving and loading."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)

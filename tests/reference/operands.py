"""What the back ends are given when they are compared with the specification, and how their results are compared."""

import io

import torch

from mofo.optim.rule.types import Operands, Rule

RULE = Rule(
    lr=1e-2,
    fraction=0.05,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.1,
    blocks=1,
    score="momentum",
    decay="selected",
    maximize=False,
    rounding="nearest",
)


def make_operands(grad, generator=None, start=None, seed=0):
    """A parameter with this gradient, and moments as after three steps."""
    start = torch.randn(grad.shape, generator=generator) if start is None else start
    exp_avg = grad.float() * torch.rand(grad.shape, generator=generator)
    exp_avg_sq = exp_avg.square() * torch.rand(grad.shape, generator=generator)
    return Operands(start.to(grad.dtype), grad, exp_avg, exp_avg_sq, torch.tensor(3.0), seed)


def copied(operands, device=None, seed=None):
    """The same with memory of its own; on a device, but for the step, which stays on the host."""
    tensors = (tensor.to(device or tensor.device, copy=True) for tensor in operands[:4])
    return Operands(*tensors, operands.step.clone(), operands.seed if seed is None else seed)


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

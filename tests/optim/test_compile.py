"""`torch.compile(optimizer.step)`: one call that is not traced into, with the same results."""

import pytest
import torch
from torch._dynamo.utils import counters

from mofo import MoFO


def make(seed=0):
    """Parameters with an optimizer."""
    torch.manual_seed(seed)
    params = [torch.nn.Parameter(torch.randn(rows, 16)) for rows in (3, 8, 5)]
    return params, MoFO(params, lr=1e-3, weight_decay=0.1)


def train(params, optimizer, step):
    """Take steps whose options change, as schedules change them."""
    torch.manual_seed(1)
    for number in range(1, 13):
        for param in params:
            param.grad = torch.randn_like(param)
        optimizer.param_groups[0].update(lr=1e-3 / number, fraction=0.5 / number)
        step()


@pytest.fixture
def compiled():
    """Compiles a step, and counts what is made of it."""
    torch._dynamo.reset()
    counters.clear()
    yield lambda step: torch.compile(step, backend="eager")
    torch._dynamo.reset()
    counters.clear()


def test_a_compiled_step_does_the_same_and_is_not_traced(compiled):
    plain, ours = make(), make()
    train(*plain, plain[1].step)
    train(*ours, compiled(ours[1].step))
    for one, other in zip(plain[0], ours[0], strict=True):
        assert torch.equal(one, other)
    assert counters["stats"]["unique_graphs"] == 0
    assert counters["frames"]["total"] < 12  # a frame a step would be a compilation a step


def test_a_step_within_a_compiled_function_is_not_traced_either(compiled):
    plain, ours = make(), make()

    def both(optimizer):
        optimizer.step()
        return optimizer.param_groups[0]["lr"]

    train(*plain, lambda: both(plain[1]))
    step = compiled(both)
    train(*ours, lambda: step(ours[1]))
    for one, other in zip(plain[0], ours[0], strict=True):
        assert torch.equal(one, other)


def test_a_closure_is_evaluated(compiled):
    params, optimizer = make()

    def closure():
        optimizer.zero_grad()
        loss = sum((param**2).sum() for param in params)
        loss.backward()
        return loss

    step = compiled(optimizer.step)
    assert step(closure) > step(closure)

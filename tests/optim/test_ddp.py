"""Data parallelism: every process makes the same step from the same gradient, and sends nothing for it."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mofo import MoFO
from reference.back_ends import BACK_ENDS
from reference.processes import Processes

OPTIONS = {"lr": 0.05, "fraction": 0.1, "weight_decay": 0.1}


def a_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 200), nn.LayerNorm(200), nn.Linear(200, 4))


def loss_of(model, step, rank):
    inputs = torch.randn(3, 16, generator=torch.Generator().manual_seed(1000 * step + rank))
    return model(inputs).square().mean()


def messages(function):
    """What ``function`` did with a process group."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    return [event.key for event in profile.key_averages() if event.key.startswith(("c10d", "gloo"))]


def train(options, steps):
    """Parameters after the last step, the gradients of every step, and the messages of backward and of step."""
    model = DistributedDataParallel(a_model())
    optimizer = MoFO(model.parameters(), **OPTIONS, **options)
    gradients, sent = [], {"backward": [], "step": []}
    for step in range(steps):
        optimizer.zero_grad()
        sent["backward"] += messages(lambda step=step: loss_of(model, step, dist.get_rank()).backward())
        gradients.append([param.grad.clone() for param in model.parameters()])
        sent["step"] += messages(optimizer.step)
    return [param.detach() for param in model.parameters()], gradients, sent


def train_with_each(many, steps=4):
    return [train(options, steps) for options in many]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.processes
@pytest.mark.parametrize("world_size", [2, 3])
def test_ddp_step_sends_nothing_and_equals_one_process(world_size, tmp_path):
    back_ends = [back_end.values[0] for back_end in BACK_ENDS]
    with Processes(world_size, tmp_path) as processes:
        first, *others = processes.run(train_with_each, back_ends)
    for index, options in enumerate(back_ends):
        params, gradients, sent = first[index]
        assert sent["backward"]
        assert not sent["step"]
        assert all(same(params, other[index][0]) for other in others), options

        alone = a_model()
        optimizer = MoFO(alone.parameters(), **OPTIONS, **options)
        for averaged in gradients:
            for param, gradient in zip(alone.parameters(), averaged, strict=True):
                param.grad = gradient
            optimizer.step()
        assert same(params, alone.parameters()), options
        assert not same(params, a_model().parameters())

        fresh = a_model()
        torch.stack([loss_of(fresh, 0, rank) for rank in range(world_size)]).mean().backward()
        for param, gradient in zip(fresh.parameters(), gradients[0], strict=True):
            torch.testing.assert_close(param.grad, gradient)


def train_with_zero_redundancy_optimizer():
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = DistributedDataParallel(a_model())
    optimizer = ZeroRedundancyOptimizer(model.parameters(), MoFO, **OPTIONS)
    for step in range(4):
        optimizer.zero_grad()
        loss_of(model, step, dist.get_rank()).backward()
        optimizer.step()
    assert same(model.parameters(), train({}, steps=4)[0])
    return len(optimizer.optim.state)


@pytest.mark.processes
def test_zero_redundancy_optimizer_keeps_tensors_in_one_piece(tmp_path):
    with Processes(2, tmp_path) as processes:
        states = processes.run(train_with_zero_redundancy_optimizer)
    assert sum(states) == 6  # each process has the moments of some tensors
    assert max(states) < 6

"""Schedules of the fraction: their courses, what the selected hold, and that a resumed training is the same."""

import copy
import math

import pytest
import torch

from mofo import MoFO
from mofo.schedules import CosineFraction, LinearFraction, ShareFraction, momentum_share


def model_and_gradients(seed=0, steps=8):
    """Two tensors, and gradients of a few large and many small entries for each step."""
    generator = torch.Generator().manual_seed(seed)
    params = [torch.randn(12, 10, generator=generator), torch.randn(7, generator=generator)]
    gradients = [[torch.randn(p.shape, generator=generator) ** 3 for p in params] for _ in range(steps)]
    return [torch.nn.Parameter(p) for p in params], gradients


def run(params, optimizer, schedule, gradients):
    """Make the steps and return the fraction of each."""
    used = []
    for step in gradients:
        for param, gradient in zip(params, step, strict=True):
            param.grad = gradient.clone()
        used.append(optimizer.param_groups[0]["fraction"])
        optimizer.step()
        schedule.step()
    return used


@pytest.mark.parametrize("kind", [LinearFraction, CosineFraction])
def test_course_goes_from_each_groups_fraction_to_the_end(kind):
    params, gradients = model_and_gradients()
    optimizer = MoFO([{"params": params[:1], "fraction": 0.5}, {"params": params[1:], "fraction": 0.3}])
    schedule = kind(optimizer, end=0.1, steps=5)
    used = run(params, optimizer, schedule, gradients)
    shape = {
        LinearFraction: [0, 0.25, 0.5, 0.75, 1],
        CosineFraction: [(1 - math.cos(math.pi * x)) / 2 for x in (0, 0.25, 0.5, 0.75, 1)],
    }[kind]
    assert used[:5] == pytest.approx([0.5 + done * (0.1 - 0.5) for done in shape])
    assert used[5:] == [0.1] * 3
    assert optimizer.param_groups[1]["initial_fraction"] == 0.3
    assert kind(optimizer, end=0.2, steps=1).optimizer.param_groups[0]["initial_fraction"] == 0.5, "as at the start"


@pytest.mark.parametrize("state_dtype", ["float32", "int8"])
@pytest.mark.parametrize("blocks", [1, 4])
def test_momentum_share_is_what_the_moved_entries_hold(blocks, state_dtype):
    generator = torch.Generator().manual_seed(3)
    param = torch.nn.Parameter(torch.randn(64, 128, generator=generator))
    optimizer = MoFO([param], lr=0.1, fraction=0.07, blocks=blocks, state_dtype=state_dtype)
    assert math.isnan(momentum_share(optimizer))
    for _ in range(3):
        before = param.detach().clone()
        param.grad = torch.randn(param.shape, generator=generator) ** 3
        optimizer.step()
    momentum = optimizer.state[param]["exp_avg"]
    if state_dtype == "int8":
        momentum = momentum.dequantize()
    held = float(momentum[before != param].abs().sum() / momentum.abs().sum())
    # With 8 bits the step selects from the values before they are rounded for the next.
    assert momentum_share(optimizer) == pytest.approx(held, rel=1e-6 if state_dtype == "float32" else 1e-2)


def test_share_schedule_takes_the_smallest_fraction_that_holds_the_share():
    params, gradients = model_and_gradients()
    optimizer = MoFO(params, lr=0.1, fraction=0.9)
    schedule = ShareFraction(optimizer, 0.6)
    used = run(params, optimizer, schedule, gradients)
    assert used[0] == 0.9
    fraction = optimizer.param_groups[0]["fraction"]
    moments = [sorted(optimizer.state[p]["exp_avg"].abs().flatten().tolist(), reverse=True) for p in params]

    def naive_share(f):
        counts = [max(1, math.floor(f * len(m) + 1e-9)) for m in moments]
        return sum(sum(m[:k]) for m, k in zip(moments, counts, strict=True)) / sum(map(sum, moments))

    assert naive_share(fraction) >= 0.6
    assert naive_share(fraction * (1 - 1e-3)) < 0.6
    assert momentum_share(optimizer) == pytest.approx(naive_share(fraction))


def test_share_of_a_sample_is_near_that_of_all_entries(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    param = torch.nn.Parameter(torch.randn(500, 400, generator=generator))
    param.grad = torch.randn(param.shape, generator=generator) ** 3
    found = []
    for sample in (2**18, 2**13):
        monkeypatch.setattr("mofo.schedules.SAMPLE", sample)
        optimizer = MoFO([param.detach().clone().requires_grad_()], fraction=0.1)
        optimizer.param_groups[0]["params"][0].grad = param.grad
        optimizer.step()
        ShareFraction(optimizer, 0.5).step()
        found.append(optimizer.param_groups[0]["fraction"])
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], rel=0.1)


def test_share_schedule_changes_every_few_steps_and_leaves_a_momentum_that_is_not_finite():
    params, gradients = model_and_gradients()
    optimizer = MoFO(params, lr=0.1, fraction=0.9)
    used = run(params, optimizer, ShareFraction(optimizer, 0.6, lowest=0.05, highest=0.5, every=3), gradients)
    assert used[:3] == [0.9] * 3
    assert used[3] == used[4] == used[5] != used[6]
    assert all(0.05 <= fraction <= 0.5 for fraction in used[3:])
    params[0].grad[0, 0] = math.inf
    optimizer.step()
    schedule = ShareFraction(optimizer, 0.9)
    schedule.step()
    assert optimizer.param_groups[0]["fraction"] == used[-1]


@pytest.mark.parametrize(
    "make",
    [
        lambda o: LinearFraction(o, end=0.1, steps=8),
        lambda o: CosineFraction(o, end=0.9, steps=8),
        lambda o: ShareFraction(o, 0.5, every=3),
    ],
    ids=["linear", "cosine", "share"],
)
def test_resumed_training_is_the_same_to_the_bit(make):
    def begin():
        params, gradients = model_and_gradients()
        optimizer = MoFO(params, lr=0.1, fraction=0.4)
        return params, optimizer, make(optimizer), gradients

    params, optimizer, schedule, gradients = begin()
    run(params, optimizer, schedule, gradients[:5])
    saved = copy.deepcopy(([p.detach() for p in params], optimizer.state_dict(), schedule.state_dict()))
    rest = run(params, optimizer, schedule, gradients[5:])

    again, other, resumed, _ = begin()
    with torch.no_grad():
        for param, weight in zip(again, saved[0], strict=True):
            param.copy_(weight)
    other.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    assert run(again, other, resumed, gradients[5:]) == rest
    assert len(set(rest)) > 1
    assert all(torch.equal(one, two) for one, two in zip(params, again, strict=True))


def test_bad_arguments_are_refused():
    params, _ = model_and_gradients()
    optimizer = MoFO(params)
    for make, message in [
        (lambda: LinearFraction(torch.optim.SGD(params), 0.1, 5), "SGD has no fraction"),
        (lambda: LinearFraction(optimizer, 0.0, 5), r"end must be in \(0, 1\]"),
        (lambda: CosineFraction(optimizer, 0.1, 0), "steps must be at least 1"),
        (lambda: ShareFraction(optimizer, 1.0), "share must be between 0 and 1"),
        (lambda: ShareFraction(optimizer, 0.5, lowest=0.5, highest=0.1), "lowest and highest"),
        (lambda: ShareFraction(optimizer, 0.5, every=0), "every must be at least 1"),
        (lambda: ShareFraction(MoFO(params, score="gradient"), 0.5), "largest gradient, not of largest momentum"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            make()
    other = MoFO([{"params": [p]} for p in params])
    with pytest.raises(ValueError, match="is of 1 groups, the optimizer has 2"):
        LinearFraction(other, 0.1, 5).load_state_dict(LinearFraction(optimizer, 0.1, 5).state_dict())


def test_steps_that_are_captured_are_refused():
    optimizer = MoFO([torch.nn.Parameter(torch.ones(4))])
    optimizer.param_groups[0]["capturable"] = True
    with pytest.raises(NotImplementedError, match="capturable=True records a step with its fraction"):
        CosineFraction(optimizer, end=0.1, steps=3)

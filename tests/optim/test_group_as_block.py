"""Tensors of a group that are one block together, against a naive float64 version of them end to end."""

import itertools

import pytest
import torch

from mofo import MoFO
from mofo.optim import checks
from mofo.optim.rule.scores import SCORES, noise, noise_key
from reference.naive import naive_step

OPTIONS = {"lr": 1e-2, "fraction": 0.2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
SHAPES = [(6, 7), (5,), (), (3, 4, 2)]


def parameters(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def gradients(steps, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES] for _ in range(steps)]


def flat(tensors):
    return [float(x) for tensor in tensors for x in tensor.detach().flatten()]


def step(optimizer, params, grads):
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.clone()
    optimizer.step()


@pytest.mark.parametrize(("score", "decay"), list(itertools.product(SCORES, ["selected", "all"])))
def test_step_matches_naive_float64_of_the_tensors_end_to_end(score, decay):
    params = parameters()
    optimizer = MoFO(params, **OPTIONS, score=score, decay=decay, group_as_block=True)
    theta = flat(params)
    m, v = [0.0] * len(theta), [0.0] * len(theta)
    for t, grads in enumerate(gradients(5), 1):
        before = flat(params)
        step(optimizer, params, grads)
        keys = [noise_key(optimizer.state[p]["seed"], t) if score == "random" else 0 for p in params]
        noises = [noise(torch.arange(p.numel()), key, p.dtype) for p, key in zip(params, keys, strict=True)]
        theta, m, v, moved = naive_step(
            theta, flat(grads), m, v, t, **OPTIONS, blocks=1, score=score, decay=decay, noise=flat(noises)
        )
        assert flat(params) == pytest.approx(theta, rel=1e-12)
        if decay == "selected":
            assert {i for i, (a, b) in enumerate(zip(before, flat(params), strict=True)) if a != b} == moved
    assert flat(optimizer.state[p]["exp_avg"] for p in params) == pytest.approx(m, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_group_of_one_large_tensor_has_the_bits_of_that_tensor_alone(dtype, rounding):
    start = torch.randn(300, 70).to(dtype)
    grads = [torch.randn(300, 70).to(dtype) for _ in range(3)]
    ends = []
    for together in (True, False):
        torch.manual_seed(3)
        param = torch.nn.Parameter(start.clone())
        optimizer = MoFO([param], lr=1e-2, fraction=0.1, rounding=rounding, group_as_block=together)
        for grad in grads:
            step(optimizer, [param], [grad])
        ends.append(param.detach())
    assert torch.equal(*ends)


def test_ties_go_to_the_first_tensor_and_what_is_not_finite_always_moves():
    params = [torch.nn.Parameter(torch.zeros(4)) for _ in range(3)]
    optimizer = MoFO(params, lr=1.0, fraction=0.5, group_as_block=True)
    step(optimizer, params, [torch.ones(4) for _ in params])
    assert [int((p != 0).sum()) for p in params] == [4, 2, 0]
    grads = [torch.zeros(4), torch.zeros(4), torch.full((4,), torch.nan)]
    step(optimizer, params, grads)
    assert params[2].isnan().all()


def test_groups_are_blocks_of_their_own_and_tensors_without_gradient_take_no_part():
    first, second = parameters(), parameters(seed=5)
    optimizer = MoFO([{"params": first, "group_as_block": True}, {"params": second, "group_as_block": True}], lr=1.0)
    before = flat(second)
    grads = gradients(1)[0]
    step(optimizer, first, [1e6 * grad for grad in grads])
    assert flat(second) == before
    total = sum(p.numel() for p in first[1:])
    third = parameters(seed=7)
    start = flat(third)
    optimizer = MoFO(third, lr=1.0, fraction=0.2, group_as_block=True)
    for p, grad in zip(third[1:], grads[1:], strict=True):
        p.grad = grad
    optimizer.step()
    moved = sum(a != b for a, b in zip(start, flat(third), strict=True))
    assert moved == int(0.2 * total)


def test_fraction_one_is_adamw_to_the_bit_and_overflow_leaves_all_as_it_was():
    ours, theirs = parameters(torch.float32), parameters(torch.float32)
    optimizer = MoFO(ours, lr=1e-2, fraction=1.0, group_as_block=True)
    adamw = torch.optim.AdamW(theirs, lr=1e-2, weight_decay=0.0)
    for grads in gradients(3, torch.float32):
        step(optimizer, ours, grads)
        step(adamw, theirs, grads)
    assert flat(ours) == flat(theirs)
    grouped = MoFO(ours, lr=1e-2, group_as_block=True)
    grouped.found_inf = torch.tensor(1.0)
    before = flat(ours)
    step(grouped, ours, gradients(1, torch.float32)[0])
    assert flat(ours) == before
    grouped.found_inf, grouped.grad_scale = torch.tensor(0.0), torch.tensor(4.0)
    step(grouped, ours, [4 * grad for grad in gradients(1, torch.float32)[0]])
    del grouped.found_inf, grouped.grad_scale
    plain_group = MoFO(theirs, lr=1e-2, group_as_block=True)
    step(plain_group, theirs, gradients(1, torch.float32)[0])
    assert flat(ours) == flat(theirs)


def test_checkpoint_goes_on_to_the_same_bits():
    grads = gradients(4)
    whole, halves = parameters(), parameters()
    optimizer = MoFO(whole, lr=1e-2, group_as_block=True)
    for each in grads:
        step(optimizer, whole, each)
    first = MoFO(halves, lr=1e-2, group_as_block=True)
    for each in grads[:2]:
        step(first, halves, each)
    second = MoFO(halves, lr=1e-2)
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["group_as_block"] is True
    for each in grads[2:]:
        step(second, halves, each)
    assert flat(whole) == flat(halves)


@pytest.mark.parametrize(
    ("options", "error", "problem"),
    [
        ({"blocks": 2}, ValueError, "blocks=2 cuts its tensors"),
        ({"fused": True}, NotImplementedError, "does not support fused=True"),
        ({"capturable": True}, NotImplementedError, "does not support capturable=True"),
        ({"state_dtype": "int8"}, NotImplementedError, "does not support state_dtype='int8'"),
        ({"on_flat": "per_piece"}, NotImplementedError, "does not support on_flat='per_piece'"),
        ({"group_as_block": 1}, TypeError, "must be True or False, got 1"),
    ],
)
def test_what_cannot_be_done_together_is_refused(options, error, problem):
    with pytest.raises(error, match=problem):
        MoFO([torch.nn.Parameter(torch.zeros(4, 2))], **{"group_as_block": True, **options})


def test_parameters_over_processes_or_devices_are_refused(monkeypatch):
    params = [torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(4, device="meta"))]
    with pytest.raises(NotImplementedError, match="on one device, got cpu, meta"):
        MoFO(params, group_as_block=True)
    monkeypatch.setattr(checks, "is_dtensor", lambda tensor: True)
    with pytest.raises(NotImplementedError, match="spread over processes"):
        MoFO(params[:1], group_as_block=True)

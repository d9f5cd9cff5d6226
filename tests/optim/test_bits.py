"""What is not selected keeps every bit, and what is not finite is never hidden."""

import math

import pytest
import torch

from mofo import MoFO
from mofo.optim.rule.scores import SCORES
from reference.back_ends import BACK_ENDS

SHAPES = [(40, 25), (64, 256)]  # plain and fast path of foreach=True
BIT_TYPES = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_entries_not_selected_keep_zeros_denormals_and_nan_payloads(dtype, shape, eps, back_end):
    if dtype is torch.float64 and back_end.get("fused"):
        pytest.skip("the native library has no float64")
    integer = BIT_TYPES[dtype.itemsize]
    quiet_nan = torch.tensor(torch.nan, dtype=dtype).view(integer) + 5  # with a payload
    special = torch.tensor([-0.0, 0.0, torch.inf, -torch.inf, torch.finfo(dtype).smallest_normal / 2], dtype=dtype)
    pattern = torch.cat([special.view(integer), quiet_nan.view(1)])
    start = pattern.repeat(math.prod(shape) // 6 + 1)[: math.prod(shape)].view(shape).clone()
    param = torch.nn.Parameter(start.view(dtype).clone())
    param.grad = torch.zeros(shape, dtype=dtype)
    param.grad[0, :10] = 1
    MoFO([param], lr=1.0, fraction=10 / math.prod(shape), eps=eps, weight_decay=0.1, **back_end).step()
    changed = (param.detach().view(integer) != start).flatten().nonzero().flatten().tolist()
    assert set(changed) <= set(range(10))
    assert changed


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("score", SCORES)
def test_non_finite_entries_all_move_beyond_k_and_no_other_does(score, shape, back_end):
    param = torch.nn.Parameter(torch.ones(shape))
    optimizer = MoFO([param], lr=0.1, fraction=0.01, score=score, **back_end)
    param.grad = torch.randn(shape)
    param.grad[1] = torch.nan
    param.grad[2] = torch.inf
    optimizer.step()
    assert param[1:3].isnan().all()
    assert torch.equal(param[0], torch.ones(shape[1]))
    assert torch.equal(param[3:], torch.ones_like(param[3:]))
    param.data.fill_(1)  # repaired by hand: the momentum remembers
    param.grad = torch.randn(shape)
    optimizer.step()
    assert param[1:3].isnan().all()


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_momentum_over_rms_moves_k_when_second_moment_under_or_overflows(shape, back_end):
    for size in (1e-30, 1e25):
        param = torch.nn.Parameter(torch.zeros(shape))
        param.grad = torch.full(shape, size)
        optimizer = MoFO([param], lr=1.0, fraction=0.1, score="momentum_over_rms", eps=1e-30, **back_end)
        optimizer.step()
        k = math.prod(shape) // 10
        assert param.isfinite().all()
        assert not param.flatten()[k:].any()
        assert (size > 1) or param.flatten()[:k].all()

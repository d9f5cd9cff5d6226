"""Exactly k entries of every block move, the rest keeps every bit, and both paths agree to the bit."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mofo import MoFO
from mofo.optim.kernels.plain import threshold
from mofo.optim.rule.blocks import selected_count
from mofo.optim.rule.scores import SCORES
from reference.back_ends import BACK_ENDS
from reference.patterns import KINDS, patterned

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
BIT_TYPES = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor):
    return tensor.detach().contiguous().view(BIT_TYPES[tensor.element_size()])


def one_step(start, grad, **options):
    """The parameter and its state after one step with lr=1 from ``start``."""
    param = torch.nn.Parameter(start.clone())
    param.grad = grad.clone()
    optimizer = MoFO([param], lr=1.0, **options)
    optimizer.step()
    return param.detach(), optimizer.state[param]


@given(
    blocks=st.integers(1, 4),
    rows=st.integers(1, 4),
    columns=st.integers(1, 30),
    fraction=st.floats(1e-3, 1.0),
    score=st.sampled_from(SCORES),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(["normal", "heavy", "few_values"]),
    foreach=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_step_moves_exactly_k_entries_of_each_block(blocks, rows, columns, fraction, score, dtype, kind, foreach, seed):
    shape = (blocks * rows, columns)
    generator = torch.Generator().manual_seed(seed)
    grad = patterned(kind, blocks * rows * columns, generator).clamp(-100, 100).view(shape).to(dtype)
    grad[grad == 0] = 1  # so that a step of lr=1 changes every selected entry
    start = torch.zeros(shape, dtype=dtype)
    after, _ = one_step(start, grad, fraction=fraction, blocks=blocks, score=score, foreach=foreach)
    k = selected_count(fraction, rows * columns)
    assert (bits(after) != bits(start)).view(blocks, -1).sum(1).tolist() == [k] * blocks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("fraction", [1e-6, 0.05, 0.5, 0.999])
def test_foreach_equals_plain_to_the_bit_on_large_blocks(kind, score, fraction):
    generator = torch.Generator().manual_seed(1)
    for shape, blocks in [((96, 1024), 1), ((24, 4096), 3), ((11, 4111), 1)]:
        grad = patterned(kind, shape[0] * shape[1], generator).view(shape).float()
        start = torch.randn(shape, generator=generator)
        options = {"fraction": fraction, "blocks": blocks, "score": score, "weight_decay": 0.1}
        torch.manual_seed(0)
        (fast, fast_state), (plain, plain_state) = (one_step(start, grad, **options, foreach=f) for f in (True, False))
        assert torch.equal(bits(fast), bits(plain))
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(bits(fast_state[key]), bits(plain_state[key]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decay", ["selected", "all"])
def test_foreach_equals_plain_in_every_type_over_several_steps(dtype, decay):
    shape = (64, 520)
    generator = torch.Generator().manual_seed(2)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for _ in range(2)]
    params[1].data.copy_(params[0].data)
    pair = [
        MoFO([param], lr=1e-2, fraction=0.1, weight_decay=0.1, decay=decay, foreach=foreach)
        for param, foreach in zip(params, (True, False), strict=True)
    ]
    for _ in range(4):
        grad = torch.randn(shape, generator=generator).to(dtype)
        for param, optimizer in zip(params, pair, strict=True):
            param.grad = grad.clone()
            optimizer.step()
    assert torch.equal(bits(params[0]), bits(params[1]))


def test_misleading_sample_costs_time_only(monkeypatch):
    brackets = []
    bracket = threshold.guess_bracket

    def misled(keys, n, k, spread):
        brackets.append(spread)
        return (2**30, 2**30) if len(brackets) <= 2 else bracket(keys, n, k, spread)

    monkeypatch.setattr(threshold, "guess_bracket", misled)
    generator = torch.Generator().manual_seed(3)
    start, grad = torch.randn(64, 512, generator=generator), torch.randn(64, 512, generator=generator)
    fast, _ = one_step(start, grad, fraction=0.1, foreach=True)
    assert len(brackets) == 3
    plain, _ = one_step(start, grad, fraction=0.1, foreach=False)
    assert torch.equal(fast, plain)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("shape", [(4, 5), (64, 256)])
def test_ties_move_in_row_major_order(shape, back_end):
    start = torch.zeros(shape)
    after, _ = one_step(start, torch.ones(shape), fraction=0.25, **back_end)
    n = start.numel()
    assert (after.flatten() != 0).nonzero().flatten().tolist() == list(range(n // 4))


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("view", ["transposed", "channels_last", "strided"])
def test_row_major_index_does_not_depend_on_strides(view, back_end):
    generator = torch.Generator().manual_seed(4)
    grad = torch.randn(2, 8, 16, 32, generator=generator).round()
    contiguous, _ = one_step(torch.ones(grad.shape), grad, fraction=0.1, blocks=2, **back_end)
    param = {
        "transposed": torch.ones(32, 16, 8, 2).permute(3, 2, 1, 0),
        "channels_last": torch.ones(grad.shape).to(memory_format=torch.channels_last),
        "strided": torch.ones(2, 8, 16, 64)[..., ::2],
    }[view]
    strides = param.stride()
    param.requires_grad_()
    param.grad = grad.clone()
    MoFO([param], lr=1.0, fraction=0.1, blocks=2, **back_end).step()
    assert param.stride() == strides
    assert torch.equal(param.detach(), contiguous)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("score", SCORES)
def test_non_finite_gradient_shows_as_with_adamw(bad, score, back_end):
    start = torch.randn(64, 256)
    grad = torch.randn(64, 256)
    grad[3, 5] = grad[60, 200] = bad
    after, _ = one_step(start, grad, fraction=0.001, score=score, **back_end)
    reference = torch.nn.Parameter(start.clone())
    reference.grad = grad.clone()
    torch.optim.AdamW([reference], lr=1.0, weight_decay=0.0).step()
    assert torch.equal(after.isfinite(), reference.isfinite())
    assert (after != start).sum() >= max(1, start.numel() // 1000)


@given(st.integers(1, 10_000), st.integers(1, 1000), st.integers(1, 1000))
@settings(max_examples=500)
def test_selected_count_is_the_floor_of_the_number_meant(n, numerator, denominator):
    numerator = min(numerator, denominator)
    exact = Fraction(numerator, denominator)
    assert selected_count(numerator / denominator, n) == max(1, int(exact * n))


@given(st.integers(1, 10_000), st.integers(1, 100))
def test_selected_count_of_percentages_written_as_decimals(n, percent):
    assert selected_count(float(f"0.{percent:02d}") if percent < 100 else 1.0, n) == max(1, percent * n // 100)


def test_random_scores_differ_between_parameters_and_steps():
    params = [torch.nn.Parameter(torch.zeros(100)) for _ in range(2)]
    optimizer = MoFO(params, lr=1.0, fraction=0.1, score="random")
    before = torch.get_rng_state()
    seen = []
    for _ in range(2):
        for param in params:
            param.data.zero_()
            param.grad = torch.ones(100)
        optimizer.step()
        seen += [frozenset(param.nonzero().flatten().tolist()) for param in params]
    assert len(set(seen)) == 4
    assert torch.equal(before, torch.get_rng_state())

"""The square root is the correctly rounded one, with and without NumPy; rounding at random is right in the mean."""

import copy
import math

import pytest
import torch

from mofo import MoFO
from mofo.optim.rule import rounding
from mofo.optim.rule.hashing import NOISE, ROUNDING, hash_indices, hash_key
from reference.back_ends import BACK_ENDS


@pytest.mark.parametrize("numpy", [True, False], ids=["numpy", "double"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_square_root_is_the_nearest_number(numpy, dtype, monkeypatch):
    monkeypatch.setattr(rounding, "HAS_NUMPY", numpy and rounding.HAS_NUMPY)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3000, generator=generator, dtype=dtype) * torch.randn(3000, generator=generator).mul(20).exp()
    for number, root in zip(x.tolist(), rounding.square_root(x.to(dtype)).tolist(), strict=True):
        if dtype is torch.float32 or rounding.HAS_NUMPY:  # Python's root is correctly rounded in double precision
            assert root == torch.tensor(math.sqrt(number), dtype=dtype).item()
        else:
            assert math.isclose(root, math.sqrt(number), rel_tol=2**-51)


@pytest.mark.parametrize("numpy", [True, False], ids=["numpy", "double"])
def test_square_root_of_special_numbers_and_shapes(numpy, monkeypatch):
    monkeypatch.setattr(rounding, "HAS_NUMPY", numpy and rounding.HAS_NUMPY)
    roots = rounding.square_root(torch.tensor([0.0, torch.inf, torch.nan, 2.0**-140, 4.0])).tolist()
    assert [roots[0], roots[1], roots[3], roots[4]] == [0, math.inf, 2.0**-70, 2]
    assert math.isnan(roots[2])
    assert rounding.square_root(torch.tensor(9.0)).item() == 3
    assert rounding.square_root(torch.empty(0, 3)).shape == (0, 3)
    assert torch.equal(rounding.square_root(torch.full((4, 6), 4.0)[:, ::2].t()), torch.full((3, 4), 2.0))
    out = torch.empty(2)
    assert rounding.square_root(torch.tensor([1.0, 4.0]), out=out) is out
    assert out.tolist() == [1, 2]


def test_round_at_random_takes_a_neighbour_and_keeps_the_mean():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0)).mul(3).exp()
    index = torch.arange(50 * 4096).view(50, 4096)
    dither = rounding.Dither(index, rounding.rounding_key(3, 4))
    rounded = rounding.round_at_random(x[:, None].expand(50, 4096), dither).float()
    low = x.view(torch.int32).bitwise_and(-0x10000).view(torch.float32)
    gap = x.view(torch.int32).bitwise_and(-0x10000).add(0x10000).view(torch.float32) - low
    assert (((rounded == low[:, None]) | (rounded == (low + gap)[:, None])).all(dim=1)).all()
    error = (rounded.double().mean(dim=1) - x.double()) / gap
    assert error.abs().max() < 4 * 0.5 / 64  # at most half a gap for one, 4096 of them, four standard deviations


def test_round_at_random_keeps_bfloat16_numbers():
    every = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.bfloat16)
    rounded = rounding.round_at_random(every.float(), rounding.Dither(torch.arange(1 << 16), 5))
    same = (rounded.view(torch.int16) == every.view(torch.int16)) | (rounded.isnan() & every.isnan())
    assert same.all()


def test_hash_bits_are_even_and_independent_between_purposes():
    index = torch.arange(1 << 16)
    words = [hash_indices(index, hash_key(seed, step, use)) for seed, step, use in
             [(0, 1, NOISE), (0, 1, ROUNDING), (0, 2, NOISE), (1, 1, NOISE)]]  # fmt: skip
    for i, a in enumerate(words):
        bits = (a[:, None] >> torch.arange(32)) & 1
        assert (bits.double().mean(dim=0) - 0.5).abs().max() < 5 * 0.5 / 256
        for b in words[:i]:
            agree = (((a ^ b)[:, None] >> torch.arange(32)) & 1).double().mean(dim=0)
            assert (agree - 0.5).abs().max() < 5 * 0.5 / 256


def train(optimizer, param, steps, first=0):
    for number in range(first, first + steps):
        param.grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(number)).to(param.dtype)
        optimizer.step()


@pytest.mark.parametrize("decay", ["selected", "all"])
@pytest.mark.parametrize("fraction", [0.1, 1.0])
@pytest.mark.parametrize("n", [300, 9000])
def test_stochastic_rounding_has_the_same_bits_in_all_back_ends(n, fraction, decay):
    start = torch.randn(n, 2).bfloat16()
    results = []
    for back_end in [*BACK_ENDS]:
        param = torch.nn.Parameter(start.clone())
        options = {"lr": 1e-3, "fraction": fraction, "decay": decay, "weight_decay": 0.1, "rounding": "stochastic"}
        if back_end.values[0].get("fused") and any(mark.args[0] for mark in back_end.marks):
            continue  # there is no library
        train(MoFO([param], **options, **back_end.values[0]), param, 3)
        results.append(param.detach())
    assert all(torch.equal(results[0], other) for other in results)
    param = torch.nn.Parameter(start.clone())
    train(MoFO([param], lr=1e-3, fraction=fraction, decay=decay, weight_decay=0.1), param, 3)
    assert not torch.equal(param, results[0])


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_stochastic_rounding_keeps_small_steps_on_average(back_end):
    moved = {}
    for how in ("nearest", "stochastic"):
        param = torch.nn.Parameter(torch.ones(4000, dtype=torch.bfloat16))
        optimizer = MoFO([param], lr=1e-5, fraction=0.5, rounding=how, **back_end)
        for _ in range(50):  # by 1e-5 each, where the next number below 1 is 4e-3 away
            param.grad = torch.ones_like(param)
            param.grad[:2000] = 2
            optimizer.step()
        assert (param[2000:] == 1).all()  # was not selected
        moved[how] = 1 - param[:2000].double().mean().item()
    assert moved["nearest"] == 0
    assert moved["stochastic"] == pytest.approx(50e-5, rel=0.3)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_stochastic_rounding_continues_from_a_checkpoint_to_the_bit(back_end):
    options = {"lr": 1e-3, "fraction": 0.3, "rounding": "stochastic", **back_end}
    param = torch.nn.Parameter(torch.randn(500).bfloat16())
    optimizer = MoFO([param], **options)
    train(optimizer, param, 2)
    assert set(optimizer.state[param]) == {"step", "exp_avg", "exp_avg_sq", "seed"}
    other = torch.nn.Parameter(param.detach().clone())
    torch.manual_seed(999)
    resumed = MoFO([other], **options)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(optimizer, param, 3, first=2)
    train(resumed, other, 3, first=2)
    assert torch.equal(param, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stochastic_rounding_leaves_wider_parameters_and_needs_no_seed(dtype):
    start = torch.randn(300, dtype=dtype)
    results = []
    for how in ("nearest", "stochastic"):
        param = torch.nn.Parameter(start.clone())
        optimizer = MoFO([param], lr=1e-3, fraction=0.3, rounding=how)
        train(optimizer, param, 2)
        assert "seed" not in optimizer.state[param]
        results.append(param.detach())
    assert torch.equal(*results)

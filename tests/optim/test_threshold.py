"""The threshold of a large block against a sort, across the borders of the pieces in which it is handled."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mofo import MoFO
from mofo.optim.kernels.plain import threshold


def chosen(values, k):
    """Flat indices that the threshold selects among the non-negative numbers ``values``."""
    keys = values.view(threshold.INTEGER[values.itemsize])
    found = threshold.find_threshold(lambda piece: keys[piece].clone(), len(keys), k)
    marks = [found.mark_(keys[piece].clone(), piece.start) for piece in threshold.chunks(len(keys))]
    return set(torch.cat(marks).nonzero().flatten().tolist())


def first_of_a_sort(values, k):
    return set(values.sort(descending=True, stable=True).indices[:k].tolist())


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(threshold, "CHUNK", 1000)  # not a multiple of 8
    monkeypatch.setattr(threshold, "SAMPLE", (64, 512))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("n", [1, 7, 999, 1000, 1001, 5003])
@pytest.mark.parametrize("levels", [1, 2, 30, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_find_threshold_selects_what_a_stable_sort_puts_first(n, levels, dtype):
    values = torch.rand(n, dtype=dtype, generator=torch.Generator().manual_seed(n))
    if levels:
        values = (values * levels).floor()
    for k in sorted({1, max(1, n // 100), max(1, n // 7), max(1, n // 2), max(1, n - 1), n}):
        assert chosen(values, k) == first_of_a_sort(values, k)


@given(st.integers(4096, 20_000), st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000))
def test_find_threshold_where_much_is_zero(n, fraction, zeros, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(n, generator=generator) * (torch.rand(n, generator=generator) >= zeros)
    k = min(n, 1 + int(fraction * n))
    assert chosen(values, k) == first_of_a_sort(values, k)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("bad", [1, 30, 3000])
@pytest.mark.parametrize("k", [1, 30, 4000])
def test_find_threshold_selects_all_infinite_and_nan_values(bad, k):
    values = torch.rand(5003, generator=torch.Generator().manual_seed(0))
    where = torch.randperm(5003, generator=torch.Generator().manual_seed(1))[:bad]
    values[where] = torch.inf
    values[where[::2]] = torch.nan
    finite = values.nan_to_num(nan=torch.inf)
    assert chosen(values, k) == (set(where.tolist()) if bad >= k else first_of_a_sort(finite, k))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("score", ["momentum", "gradient", "momentum_over_rms", "random"])
def test_foreach_equals_plain_to_the_bit_over_many_pieces(score):
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.ones(41, 307)) for _ in range(2)]
    pair = [
        MoFO([param], lr=1e-2, fraction=0.1, score=score, weight_decay=0.1, foreach=foreach)
        for param, foreach in zip(params, (True, False), strict=True)
    ]
    for _ in range(3):
        grad = torch.randn(41, 307, generator=generator).mul_(4).round_()
        for param, optimizer in zip(params, pair, strict=True):
            param.grad = grad.clone()
            optimizer.step()
    assert torch.equal(*params)

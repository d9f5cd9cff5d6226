"""The square root is the correctly rounded one, with and without NumPy."""

import math

import pytest
import torch

from mofo.optim import rounding


@pytest.mark.parametrize("numpy", [True, False], ids=["numpy", "double"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_nearest_number_to_the_root(numpy, dtype, monkeypatch):
    monkeypatch.setattr(rounding, "HAS_NUMPY", numpy and rounding.HAS_NUMPY)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3000, generator=generator, dtype=dtype) * torch.randn(3000, generator=generator).mul(20).exp()
    for number, root in zip(x.tolist(), rounding.square_root(x.to(dtype)).tolist(), strict=True):
        if dtype is torch.float32:  # Python's root is correctly rounded in double precision
            assert root == torch.tensor(math.sqrt(number), dtype=torch.float32).item()
        else:
            assert math.isclose(root, math.sqrt(number), rel_tol=2**-51)


@pytest.mark.parametrize("numpy", [True, False], ids=["numpy", "double"])
def test_special_numbers_and_shapes(numpy, monkeypatch):
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

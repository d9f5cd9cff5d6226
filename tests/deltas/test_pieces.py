"""A piece of a tensor in every pair of types."""

import itertools

import pytest
import torch

from mofo.deltas import pieces
from mofo.deltas.quantised import BLOCK, LEVELS

KINDS = {**pieces.FLOATS, "I8": torch.int8, "I64": torch.int64, "F8_E4M3": torch.float8_e4m3fn}


def content(values):
    return bytes(values.contiguous().view(torch.uint8).numpy().tobytes())


def numbers(dtype, count=1000, *, seed=0):
    """Numbers of every size, with infinities, zeros of both signs and every kind of NaN."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 256, (count * torch.empty(0, dtype=dtype).element_size(),), generator=generator)
    return raw.to(torch.uint8).view(dtype)


@pytest.mark.parametrize(("base", "tuned"), list(itertools.product(KINDS, KINDS)))
def test_piece_leads_forward_and_backward_in_all_types(base, tuned):
    dtypes = (base, tuned)
    for old, new in [
        (numbers(KINDS[base]), numbers(KINDS[tuned], seed=1)),  # with NaNs of every kind
        (torch.arange(50).to(KINDS[base]), torch.arange(0.5, 60).to(KINDS[tuned])),  # of other lengths
        (torch.arange(50).to(KINDS[base]), torch.arange(50).to(KINDS[tuned])),
    ]:
        one, other = content(old), content(new)
        coded = pieces.encode(one, other, dtypes)
        assert pieces.decode(coded, one, dtypes, len(other), forward=True) == other
        assert pieces.decode(coded, other, dtypes, len(one), forward=False) == one


@pytest.mark.parametrize("dtypes", [(None, "BF16"), ("BF16", None)])
def test_piece_of_a_tensor_that_only_one_has(dtypes):
    there = content(numbers(torch.bfloat16))
    old, new = (b"", there) if dtypes[0] is None else (there, b"")
    coded = pieces.encode(old, new, dtypes)
    assert pieces.decode(coded, old, dtypes, len(new), forward=True) == new
    assert pieces.decode(coded, new, dtypes, len(old), forward=False) == old


def test_equal_pieces_keep_nothing():
    same = content(numbers(torch.float16))
    assert pieces.encode(same, same, ("F16", "F16")).parts == (b"", b"")
    coded = pieces.encode(content(torch.arange(9.0)), content(torch.arange(9.0).bfloat16()), ("F32", "BF16"))
    assert coded.piece.moved == 0, "numbers that both types have did not move"


@pytest.mark.parametrize(("base", "tuned"), [("F32", "F32"), ("F32", "BF16"), ("BF16", "BF16"), ("BF16", "F32")])
def test_rounded_piece_is_off_by_half_a_step_at_most(base, tuned):
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(5000, generator=generator).to(KINDS[base])
    new = old.to(KINDS[tuned]).clone()
    moved = torch.rand(5000, generator=generator) < 0.5
    new[moved] += (0.01 * torch.randn(int(moved.sum()), generator=generator)).to(new.dtype)
    dtypes = (base, tuned)
    coded, result, rounding = pieces.encode_rounded(content(old), content(new), dtypes)
    restored = pieces.decode(coded, content(old), dtypes, len(result), forward=True)
    assert restored == result
    got = pieces.values_of(restored, tuned)
    changes = (new.double() - old.to(new.dtype).double()).abs()
    step = changes.max() / LEVELS
    off = (got.double() - new.double()).abs()
    ulp = 0.0 if new.dtype == torch.float32 else 2.0**-7 * new.double().abs().max()  # rounded to the tuned type again
    assert off.max() <= step / 2 + ulp + 1e-6
    assert torch.equal(got[~moved], new[~moved])
    assert rounding.largest == pytest.approx(off.max().item())
    assert rounding.error == pytest.approx(off.square().sum().item())
    assert rounding.change == pytest.approx(changes.square().sum().item())
    assert len(coded.parts[1]) < int(moved.sum()) * 1.1 + 4 * (5000 // BLOCK + 1) + 100
    if dtypes == ("BF16", "BF16"):  # where the exact change is the smaller one
        assert rounding.error == 0
        return
    with pytest.raises(ValueError, match="base alone"):
        pieces.decode(coded, restored, dtypes, len(content(old)), forward=False)


def test_rounded_piece_with_numbers_that_are_not_finite_is_exact():
    old, new = torch.arange(9.0), torch.arange(9.0)
    new[3] = torch.inf
    coded, result, rounding = pieces.encode_rounded(content(old), content(new), ("F32", "F32"))
    assert coded.piece.how == "difference"
    assert result == content(new)
    assert rounding.relative == 0

"""The difference of bits leads both ways, whatever the bits are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mofo.deltas import bits


@st.composite
def pairs(draw):
    """Two arrays of one width, of which a part is equal."""
    width = draw(st.sampled_from([1, 2, 4, 8]))
    count = draw(st.integers(1, 3000))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    base = generator.integers(0, 256, count * width, dtype=np.uint8).view(f"<u{width}")
    tuned = base.copy()
    moved = generator.random(count) < draw(st.sampled_from([0, 0.0005, 0.01, 0.1, 0.5, 1]))
    other = generator.integers(0, 256, count * width, dtype=np.uint8).view(f"<u{width}")
    near = base + generator.integers(0, 5, count).astype(base.dtype)
    tuned[moved] = np.where(generator.random(count) < 0.5, other, near)[moved]
    return base, tuned


@given(pairs())
def test_difference_leads_forward_and_backward(pair):
    base, tuned = pair
    changes = bits.difference(base, tuned)
    change = bits.dense(changes, len(base), base.itemsize)
    assert np.array_equal(base + change, tuned)
    assert np.array_equal(tuned - change, base)
    assert changes.moved == np.count_nonzero(base != tuned)


@pytest.mark.parametrize(("step", "index"), [(1, "mask"), (3, "mask"), (700, "gaps"), (254, "gaps"), (255, "gaps")])
def test_entries_are_named_in_the_smaller_way(step, index):
    generator = np.random.default_rng(0)
    where = np.unique(np.cumsum(generator.integers(1, 2 * step, 90_000 // step + 1)))
    where = where[where < 100_000]
    base, tuned = np.zeros(100_000, "<u2"), np.zeros(100_000, "<u2")
    tuned[where] = 1
    changes = bits.difference(base, tuned)
    assert changes.index == index
    assert np.array_equal(bits.find_entries(changes, len(base)), where)
    assert len(changes.where) <= len(bits.compress(np.packbits(tuned.astype(bool)).tobytes()))


def test_small_changes_of_bfloat16_take_few_bytes():
    base = np.random.default_rng(0).integers(0, 2**16, 2**16, dtype=np.uint16)
    tuned = base + np.random.default_rng(1).integers(-1, 2, 2**16).astype(np.uint16)
    changes = bits.difference(base, tuned)
    assert len(changes.values) + len(changes.where) < base.nbytes / 6


@pytest.mark.parametrize("part", ["where", "values"])
@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-1], lambda b: b"", lambda b: b"x" * len(b), lambda b: bits.compress(b"")]
)
def test_damaged_changes_are_refused(part, spoil):
    from dataclasses import replace

    changes = bits.difference(np.zeros(1000, "<u4"), np.arange(1000, dtype="<u4"))
    with pytest.raises(ValueError, match=r"damaged|cut off"):
        bits.dense(replace(changes, **{part: spoil(getattr(changes, part))}), 1000, 4)


@pytest.mark.parametrize("count", [500, 999])
def test_positions_beyond_the_entries_are_refused(count):
    tuned = np.zeros(1000, "<u4")
    tuned[999] = 1
    with pytest.raises(ValueError, match="positions do not fit"):
        bits.find_entries(bits.difference(np.zeros(1000, "<u4"), tuned), count)

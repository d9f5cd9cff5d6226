import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofo.data.order import batch_order


def batches_of(order, batch):
    return [tuple(sorted(order[start : start + batch])) for start in range(0, len(order), batch)]


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    steps=st.integers(1, 30),
    batch=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_batch_order_shows_every_row_equally_often_and_depends_on_the_seed_alone(lengths, steps, batch, seed):
    order = batch_order(lengths, steps=steps, batch=batch, seed=seed)
    assert len(order) == steps * batch
    counts = [order.count(i) for i in range(len(lengths))]
    assert max(counts) - min(counts) <= 1
    assert order == batch_order(lengths, steps=steps, batch=batch, seed=seed)


@settings(deadline=None)
@given(rows=st.integers(1, 40), batch=st.integers(1, 5), seed=st.integers(0, 3))
def test_batch_order_shows_every_row_once_an_epoch(rows, batch, seed):
    order = batch_order([1] * rows, steps=3 * rows, batch=batch, seed=seed)
    for epoch in range(3 * batch):
        begin, end = epoch * rows, (epoch + 1) * rows
        inside = order[-(-begin // batch) * batch : end // batch * batch]
        assert len(set(inside)) == len(inside)


def test_batch_order_puts_rows_of_similar_length_into_a_batch():
    lengths = [1, 100] * 40
    order = batch_order(lengths, steps=20, batch=4, seed=0)
    batches = [{lengths[i] for i in order[start : start + 4]} for start in range(0, 80, 4)]
    assert sum(len(batch) == 1 for batch in batches) >= 18


@pytest.mark.parametrize(("rows", "batch", "steps"), [(16, 8, 3), (24, 8, 9), (80, 4, 21), (10, 3, 20)])
def test_batch_order_gives_each_seed_other_batches_of_little_data(rows, batch, steps):
    lengths = [37 * i % 101 + 1 for i in range(rows)]
    orders = [batch_order(lengths, steps=steps, batch=batch, seed=seed) for seed in range(4)]
    assert len({frozenset(batches_of(order, batch)) for order in orders}) == 4


def test_batch_order_gives_each_epoch_other_batches_of_little_data():
    lengths = [37 * i % 101 + 1 for i in range(24)]
    order = batch_order(lengths, steps=12, batch=4, seed=0)
    epochs = [frozenset(batches_of(order[start : start + 24], 4)) for start in (0, 24)]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(
    ("rows", "steps", "batch", "seed", "sha256"),
    [
        (7473, 32, 5, 0, "69c5f0c31d3e801561958d3d447be7192197356386f4aa5cd1efea102769b519"),
        (7473, 32, 5, 1, "4fa46a440d6b2b70287b09e096555eeb45733f867d9aa4c236410c7ce4c9d4d0"),
        (80, 20, 4, 0, "597a4279913053aa471a2b58bbf7bf8433fecadd5d6babd132c2157a8be877c3"),
    ],
    ids=["gsm8k-0", "gsm8k-1", "int8"],
)
def test_batch_order_within_an_epoch_stays_as_in_committed_runs(rows, steps, batch, seed, sha256):
    """Rows, steps and batches of `experiments/gsm8k` and `experiments/int8`, which were measured in this order."""
    lengths = [37 * i % 211 + 1 for i in range(rows)]
    order = batch_order(lengths, steps=steps, batch=batch, seed=seed)
    assert hashlib.sha256(json.dumps(order).encode()).hexdigest() == sha256

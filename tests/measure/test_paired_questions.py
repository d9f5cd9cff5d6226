"""The same questions before and after."""

import random

import pytest
from scipy.stats import binomtest

from mofo.measure.mean import Mean
from mofo.measure.pairing import newcombe_interval, paired


def test_paired_counts_questions_that_changed_and_tests_them_exactly():
    before = Mean([1.0] * 30 + [0.0] * 10)
    after = Mean([1.0] * 20 + [0.0] * 10 + [1.0] * 2 + [0.0] * 8)
    found = paired(before, after)
    assert (found.units, found.lost, found.won) == (40, 10, 2)
    assert found.lost_questions == list(range(20, 30))
    assert found.won_questions == [30, 31]
    assert found.p == pytest.approx(binomtest(10, 12).pvalue)
    assert found.low < -0.2 < found.high < 0
    assert found.is_significant


def test_paired_of_equal_answers_is_no_proof_of_no_change():
    few, many = (paired(Mean([1.0, 0.0] * n), Mean([1.0, 0.0] * n)) for n in (5, 500))
    assert few.p == many.p == 1
    assert few.high > 0.1 > 0.02 > many.high
    assert not few.is_significant


@pytest.mark.parametrize(
    ("both", "lost", "won", "questions", "expected"),
    # Newcombe 1998, table II, method 10: a - e, with b lost and c won turned round
    [
        (36, 2, 12, 50, (0.0569, 0.3404)),
        (20, 2, 12, 50, (0.0562, 0.3290)),
        (30, 0, 0, 30, (-0.1135, 0.1135)),
    ],
)
def test_newcombe_interval_equals_the_published_one(both, lost, won, questions, expected):
    assert newcombe_interval(both, lost, won, questions) == pytest.approx(expected, abs=5e-4)


def test_paired_interval_holds_the_truth_as_often_as_it_says():
    draw = random.Random(0)
    held = 0
    for _ in range(300):
        pairs = [draw.choices([(1, 1), (1, 0), (0, 1), (0, 0)], [0.5, 0.15, 0.05, 0.3])[0] for _ in range(60)]
        found = paired(Mean([float(a) for a, _ in pairs]), Mean([float(b) for _, b in pairs]))
        held += found.low <= -0.1 <= found.high
    assert 0.92 <= held / 300 <= 0.99


def test_paired_of_losses_has_a_bootstrap_interval_about_its_normal_one():
    draw = random.Random(1)
    counts = [draw.randint(5, 40) for _ in range(200)]
    before = Mean([draw.gauss(2, 1) * count for count in counts], counts)
    after = Mean(
        [total + draw.gauss(0.1, 0.3) * count for total, count in zip(before.totals, counts, strict=True)], counts
    )
    found = paired(before, after)
    error = after.change_error(before)
    assert (found.low, found.high) == pytest.approx(
        (after - before - 1.96 * error, after - before + 1.96 * error), rel=0.2
    )
    assert found.lost is found.p is None


def test_paired_of_other_questions_is_nothing():
    assert paired(Mean([1.0, 2.0]), Mean([1.0, 2.0, 3.0])) is None
    assert paired(Mean([1.0]), Mean([1.0])) is None

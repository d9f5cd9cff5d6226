"""What continual learning is judged by, against matrices computed by hand."""

import pytest

from mofo.report.matrix import Matrix

SCORES = Matrix(
    rows=[
        [0.8, 0.3, 0.2],
        [0.6, 0.9, 0.4],
        [0.5, 0.6, 0.7],
    ],
    base=[0.1, 0.2, 0.3],
    higher_is_better=True,
)
LOSSES = Matrix(rows=[[1.0, 3.0], [1.6, 2.0]], base=[4.0, 3.5], higher_is_better=False)


def test_overall_is_the_mean_of_the_last_row():
    assert SCORES.overall == pytest.approx((0.5 + 0.6 + 0.7) / 3)
    assert LOSSES.overall == pytest.approx(1.8)


def test_backward_transfer_is_the_mean_gain_since_each_task_was_learned():
    assert SCORES.backward_transfer == pytest.approx(((0.5 - 0.8) + (0.6 - 0.9)) / 2)
    assert LOSSES.backward_transfer == pytest.approx(-0.6)  # a loss that rose was lost


def test_forward_transfer_is_the_mean_gain_over_the_base_before_each_task():
    assert SCORES.forward_transfer == pytest.approx(((0.3 - 0.2) + (0.4 - 0.3)) / 2)
    assert LOSSES.forward_transfer == pytest.approx(0.5)


def test_forgetting_is_best_before_minus_last():
    assert SCORES.forgetting == pytest.approx(((0.8 - 0.5) + (0.9 - 0.6)) / 2)
    assert LOSSES.forgetting == pytest.approx(0.6)


def test_forgetting_counts_from_the_best_and_not_from_when_it_was_learned():
    later = Matrix([[0.5, 0.1, 0.1], [0.7, 0.6, 0.1], [0.4, 0.5, 0.9]], [0.0, 0.0, 0.0], higher_is_better=True)
    assert later.forgetting == pytest.approx(((0.7 - 0.4) + (0.6 - 0.5)) / 2)
    assert later.backward_transfer == pytest.approx(((0.4 - 0.5) + (0.5 - 0.6)) / 2)


def test_intransigence_is_what_is_missing_to_the_reference_when_a_task_was_just_learned():
    assert SCORES.intransigence([0.9, 0.9, 0.8]) == pytest.approx((0.1 + 0.0 + 0.1) / 3)
    assert LOSSES.intransigence([0.9, 2.1]) == pytest.approx((0.1 - 0.1) / 2)


def test_largest_drop_names_the_task_that_lost_and_the_one_that_was_learned():
    task, during, amount = SCORES.largest_drop()
    assert (task, during) == (1, 2)
    assert amount == pytest.approx(0.3)
    assert LOSSES.largest_drop() == (0, 1, pytest.approx(0.6))
    assert Matrix([[0.5, 0.5], [0.6, 0.6]], [0, 0], higher_is_better=True).largest_drop() is None


def test_single_task_has_no_transfer():
    alone = Matrix([[0.5]], [0.1], higher_is_better=True)
    assert alone.overall == 0.5
    assert (alone.backward_transfer, alone.forward_transfer, alone.forgetting) == (None, None, None)

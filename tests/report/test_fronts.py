"""Equal learning: hand-computed cases, and what must hold for any path."""

from itertools import pairwise

import pytest
from fake import KL, path_results
from hypothesis import given
from hypothesis import strategies as st

from mofo.report.comparison import Comparison
from mofo.report.fronts import at_loss, common_loss, default_targets, equal_learning, front, least_at_loss


def comparison(runs):
    return Comparison(path_results(runs))


def test_at_loss_interpolates_at_the_first_crossing():
    points = [(2.0, 0.0), (1.5, 0.1), (1.3, 0.2), (1.6, 0.9), (1.2, 0.5)]
    assert at_loss(points, 1.5) == pytest.approx(0.1)
    assert at_loss(points, 1.4) == pytest.approx(0.15)  # not the crossing on the way up
    assert at_loss(points, 1.25) == pytest.approx(0.55)  # on the last stretch, from (1.6, 0.9) to (1.2, 0.5)
    assert at_loss(points, 1.19) is None
    assert at_loss(points, 2.5) == 0.0


def test_at_loss_before_the_first_checkpoint_is_that_of_the_checkpoint():
    assert at_loss([(2.0, 0.0), (1.5, 0.1), (1.3, 0.2)], 1.75) == 0.1
    assert at_loss([(2.0, 0.0), (1.5, -0.1)], 1.75) == -0.1


def test_least_at_loss_looks_at_everything_that_learned_as_much():
    points = [(2.0, 0.0), (1.4, 0.3), (1.2, 0.1), (1.6, 0.2)]
    assert least_at_loss(points, 1.4) == pytest.approx(0.1)
    assert least_at_loss(points, 1.2) == pytest.approx(0.1)
    assert least_at_loss(points, 1.1) is None
    assert least_at_loss(points, 2.0) == 0.0


def test_common_loss_is_the_lowest_that_every_method_reached_with_all_seeds():
    found = comparison(
        {
            ("adamw", 1e-4, 0): [(1.5, 0.1), (1.2, 0.3)],
            ("adamw", 1e-4, 1): [(1.5, 0.1), (1.3, 0.3)],
            ("adamw", 2e-4, 0): [(1.35, 0.4)],
            ("mofo", 1e-4, 0): [(1.1, 0.2)],
        }
    )
    assert common_loss(found, found.methods) == 1.3
    assert common_loss(found, ["mofo"]) == 1.1
    targets = default_targets(found)
    assert targets[0] == 1.3
    assert targets == sorted(targets)
    assert all(1.3 <= target < 2.0 for target in targets)


def test_common_loss_without_learning_is_none():
    found = comparison({("adamw", 1e-4, 0): [(1.5, 0.1)], ("mofo", 1e-4, 0): [(2.3, 0.1)]})
    assert common_loss(found, found.methods) is None
    assert default_targets(found) == []


def test_equal_learning_takes_the_best_configuration_and_pools_its_seeds():
    found = comparison(
        {
            ("adamw", 1e-4, 0): [(1.5, 0.2), (1.3, 0.4)],
            ("adamw", 1e-4, 1): [(1.5, 0.3), (1.3, 0.5)],
            ("adamw", 3e-4, 0): [(1.5, 0.9), (1.3, 1.0)],
            ("adamw", 5e-5, 0): [(1.6, 0.1)],
        }
    )
    best = equal_learning(found, 1.4, [KL]).best["adamw", KL]
    assert best.configuration.settings == {"learning_rate": 1e-4}
    assert best.amount.mean == pytest.approx(0.35)
    assert best.amount.std == pytest.approx(0.1 / 2**0.5)
    assert (best.amount.seeds, best.reached, best.tried, best.passed) == (2, 2, 3, 0)
    assert (best.loss, best.early) == (1.4, False)


def test_equal_learning_takes_no_lucky_seed_where_a_configuration_has_three():
    three = {("adamw", 1e-4, seed): [(1.5, 0.2), (1.3, 0.4)] for seed in (0, 1, 2)}
    best = equal_learning(comparison({**three, ("adamw", 5e-5, 0): [(1.5, 0.1), (1.3, 0.1)]}), 1.4, [KL]).best
    assert best["adamw", KL].configuration.settings == {"learning_rate": 1e-4}
    assert best["adamw", KL].reached == 2


def test_equal_learning_needs_all_seeds_of_a_configuration():
    found = comparison({("mofo", 1e-4, 0): [(1.2, 0.1)], ("mofo", 1e-4, 1): [(1.5, 0.1)]})
    assert equal_learning(found, 1.3, [KL]).best == {}


def test_equal_learning_takes_a_run_that_was_past_a_loss_as_it_was_at_its_first_checkpoint():
    runs = {("mofo", 1e-4, 0): [(1.6, 0.3), (1.4, 0.4)], ("mofo", 3e-4, 0): [(1.2, 0.5)]}
    best = equal_learning(comparison(runs), 1.5, [KL]).best["mofo", KL]
    assert (best.amount.mean, best.loss, best.early) == (pytest.approx(0.35), 1.5, False)
    assert (best.reached, best.passed, best.tried) == (2, 1, 2)
    best = equal_learning(comparison(runs), 1.3, [KL]).best["mofo", KL]
    assert (best.amount.mean, best.loss, best.early, best.reached) == (0.5, 1.2, True, 1)
    best = equal_learning(comparison(runs | {("mofo", 3e-4, 0): [(1.2, 0.2)]}), 1.5, [KL]).best["mofo", KL]
    assert (best.amount.mean, best.loss, best.early) == (0.2, 1.2, True)  # learned more and forgot less than the other


def test_equal_learning_of_seeds_of_which_one_was_past_the_loss():
    found = comparison({("mofo", 1e-4, 0): [(1.6, 0.3), (1.4, 0.4)], ("mofo", 1e-4, 1): [(1.3, 0.5)]})
    best = equal_learning(found, 1.5, [KL]).best["mofo", KL]
    assert (best.amount.mean, best.loss, best.early) == (pytest.approx((0.35 + 0.5) / 2), pytest.approx(1.4), True)


@pytest.mark.parametrize(
    ("path", "comparable"),
    [
        ([(1.5, 0.1)], True),
        ([(1.5, 0.9)], True),
        ([(1.3, 0.1)], True),  # learned more and forgot less
        ([(1.3, 0.9)], False),  # may have forgotten less on its way
    ],
)
def test_best_is_comparable_unless_it_learned_more_and_forgot_more(path, comparable):
    found = equal_learning(comparison({("adamw", 1e-4, 0): [(1.5, 0.5)], ("mofo", 1e-4, 0): path}), 1.5, [KL])
    assert found.best["mofo", KL].comparable(found.best["adamw", KL]) == comparable
    assert found.best["adamw", KL].comparable(found.best["mofo", KL]) == comparable


def test_front_of_two_configurations_by_hand():
    found = comparison({("mofo", 1e-4, 0): [(1.5, 0.1)], ("mofo", 3e-4, 0): [(1.5, 0.4), (1.0, 0.6)]})
    envelope = {round(loss, 9): amount.mean for loss, amount in front(found, "mofo", KL, resolution=4)}
    expected = {2.0: 0.0, 1.75: 0.05, 1.5: 0.1, 1.25: 0.5, 1.0: 0.6}
    assert envelope == pytest.approx(expected)


losses = st.floats(0.5, 2.5)
amounts = st.floats(-1.0, 3.0)
paths = st.lists(st.tuples(losses, amounts), min_size=1, max_size=6)


@given(st.lists(paths, min_size=1, max_size=4))
def test_front_never_falls_with_learning_and_lies_below_every_point(runs):
    found = comparison({("mofo", 1e-4 * (i + 1), 0): points for i, points in enumerate(runs)})
    envelope = front(found, "mofo", KL, resolution=10)
    by_loss = {loss: amount.mean for loss, amount in envelope}
    assert all(a.mean <= b.mean + 1e-12 for (_, a), (_, b) in pairwise(envelope))
    for loss, amount in [point for points in runs for point in points]:
        if loss <= 2.0:
            assert by_loss[loss] <= amount + 1e-12


@given(paths, losses)
def test_at_loss_is_never_below_least_at_loss(points, target):
    points = [(2.0, 0.0), *points]
    first, least = at_loss(points, target), least_at_loss(points, target)
    assert (first is None) == (least is None) == (min(loss for loss, _ in points) > target)
    if first is not None:
        assert least <= first + 1e-9


@given(paths)
def test_at_loss_returns_the_point_itself_where_it_is_a_new_low(points):
    low = 2.0
    points = [(2.0, 0.0), *points]
    for loss, amount in points[1:]:
        if loss < low:
            low = loss
            assert at_loss(points, loss) == pytest.approx(amount, abs=1e-9)

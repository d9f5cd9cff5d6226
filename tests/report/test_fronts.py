"""Equal learning: hand-computed cases, and what must hold for any path."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mofo.report.comparison import Measure
from mofo.report.fronts import (
    Pooled,
    at_loss,
    common_loss,
    default_targets,
    equal_learning,
    forgotten,
    front,
    least_at_loss,
    path,
    told_apart,
)

KL = Measure("divergence", "kl")


def comparison(runs: dict[tuple[str, float, int], list[tuple[float | None, float]]]) -> dict:
    """Results with base loss 2 from paths (loss, kl) by method, learning rate and seed."""
    return {
        "recipe": {},
        "base": {"learned": {"loss": 2.0}, "forgotten": {"divergence": {"kl": 0.0}}},
        "runs": [
            {
                "name": f"{method}-{lr}-{seed}",
                "method": method,
                "settings": {"learning_rate": lr},
                "seed": seed,
                "points": [
                    {"step": i + 1, "learned": {"loss": loss}, "forgotten": {"divergence": {"kl": kl}}}
                    for i, (loss, kl) in enumerate(points)
                ],
            }
            for (method, lr, seed), points in runs.items()
        ],
    }


@pytest.mark.parametrize(
    ("probe", "metric", "after", "expected"),
    [
        ("text", "loss", 3.5, 0.5),
        ("divergence", "kl", 0.2, 0.2),
        ("choice", "accuracy", 0.5, 0.1),
        ("choice", "log_probability", -1.5, 0.5),
    ],
)
def test_forgotten_is_positive_when_worse(probe, metric, after, expected):
    base = {
        "forgotten": {
            "text": {"loss": 3.0},
            "divergence": {"kl": 0.0},
            "choice": {"accuracy": 0.6, "log_probability": -1.0},
        }
    }
    assert forgotten(base, {"forgotten": {probe: {metric: after}}}, probe, metric) == pytest.approx(expected)


@pytest.mark.parametrize("after", [None, float("nan"), float("inf")])
def test_forgotten_is_none_when_not_measured_or_not_finite(after):
    base = {"forgotten": {"text": {"loss": 3.0}}}
    assert forgotten(base, {"forgotten": {"text": {"loss": after}}}, "text", "loss") is None
    assert forgotten(base, {"forgotten": {}}, "text", "loss") is None


def test_at_loss_interpolates_at_the_first_crossing():
    points = [(2.0, 0.0), (1.5, 0.1), (1.3, 0.2), (1.6, 0.9), (1.2, 0.5)]
    assert at_loss(points, 1.5) == pytest.approx(0.1)
    assert at_loss(points, 1.4) == pytest.approx(0.15)  # not the crossing on the way up
    assert at_loss(points, 1.75) == pytest.approx(0.05)
    assert at_loss(points, 1.25) == pytest.approx(0.55)  # on the last stretch, from (1.6, 0.9) to (1.2, 0.5)
    assert at_loss(points, 1.19) is None
    assert at_loss(points, 2.5) == 0.0


def test_least_at_loss_looks_at_everything_that_learned_as_much():
    points = [(2.0, 0.0), (1.4, 0.3), (1.2, 0.1), (1.6, 0.2)]
    assert least_at_loss(points, 1.4) == pytest.approx(0.1)
    assert least_at_loss(points, 1.2) == pytest.approx(0.1)
    assert least_at_loss(points, 1.1) is None
    assert least_at_loss(points, 2.0) == 0.0


def test_path_leaves_out_what_is_not_finite():
    results = comparison({("mofo", 1e-4, 0): [(1.5, 0.1), (None, 0.2), (float("nan"), 0.3), (1.2, float("nan"))]})
    assert path(results["base"], results["runs"][0], *KL) == [(2.0, 0.0), (1.5, 0.1)]


def test_common_loss_is_the_lowest_that_every_method_reached_with_all_seeds():
    results = comparison(
        {
            ("adamw", 1e-4, 0): [(1.5, 0.1), (1.2, 0.3)],
            ("adamw", 1e-4, 1): [(1.5, 0.1), (1.3, 0.3)],
            ("adamw", 2e-4, 0): [(1.35, 0.4)],
            ("mofo", 1e-4, 0): [(1.1, 0.2)],
        }
    )
    assert common_loss(results) == 1.3
    assert common_loss(results, ["mofo"]) == 1.1
    targets = default_targets(results)
    assert targets[0] == 1.3
    assert targets == sorted(targets)
    assert all(1.3 <= target < 2.0 for target in targets)


def test_nothing_in_common_without_learning():
    results = comparison({("adamw", 1e-4, 0): [(1.5, 0.1)], ("mofo", 1e-4, 0): [(2.3, 0.1)]})
    assert common_loss(results) is None
    assert default_targets(results) == []


def test_equal_learning_takes_the_best_setting_and_pools_its_seeds():
    results = comparison(
        {
            ("adamw", 1e-4, 0): [(1.5, 0.2), (1.3, 0.4)],
            ("adamw", 1e-4, 1): [(1.5, 0.3), (1.3, 0.5)],
            ("adamw", 3e-4, 0): [(1.5, 0.9), (1.3, 1.0)],
            ("adamw", 5e-5, 0): [(1.6, 0.1)],
        }
    )
    best = equal_learning(results, 1.4, [KL]).best["adamw", KL]
    assert best.setting.options == (("learning_rate", 1e-4),)
    assert best.amount.mean == pytest.approx(0.35)
    assert best.amount.std == pytest.approx(0.1 / 2**0.5)
    assert (best.amount.seeds, best.reached, best.tried, best.early) == (2, 2, 3, 0)


def test_a_setting_counts_only_if_all_its_seeds_got_there():
    results = comparison({("mofo", 1e-4, 0): [(1.2, 0.1)], ("mofo", 1e-4, 1): [(1.5, 0.1)]})
    assert equal_learning(results, 1.3, [KL]).best == {}


def test_measured_settings_are_preferred_to_lines_from_the_base():
    results = comparison({("mofo", 1e-4, 0): [(1.6, 0.3), (1.4, 0.4)], ("mofo", 3e-4, 0): [(1.2, 0.5)]})
    best = equal_learning(results, 1.5, [KL]).best["mofo", KL]
    assert (best.amount.mean, best.early, best.from_base) == (pytest.approx(0.35), 1, False)
    assert equal_learning(results, 1.3, [KL]).best["mofo", KL].from_base


def test_front_of_two_settings_by_hand():
    results = comparison({("mofo", 1e-4, 0): [(1.5, 0.1)], ("mofo", 3e-4, 0): [(1.5, 0.4), (1.0, 0.6)]})
    envelope = {round(loss, 9): amount.mean for loss, amount in front(results, "mofo", *KL, resolution=4)}
    expected = {2.0: 0.0, 1.75: 0.05, 1.5: 0.1, 1.25: 0.5, 1.0: 0.6}
    assert envelope == pytest.approx(expected)


def test_ranges_that_overlap_are_not_told_apart():
    assert told_apart(Pooled(0.2, 0.02, 3), Pooled(0.3, 0.02, 3)) is True
    assert told_apart(Pooled(0.2, 0.06, 3), Pooled(0.3, 0.05, 3)) is False
    assert told_apart(Pooled(0.2, None, 1), Pooled(0.3, 0.05, 3)) is None


losses = st.floats(0.5, 2.5)
amounts = st.floats(-1.0, 3.0)
paths = st.lists(st.tuples(losses, amounts), min_size=1, max_size=6)


@given(st.lists(paths, min_size=1, max_size=4))
def test_the_front_never_falls_with_learning_and_lies_below_every_point(runs):
    results = comparison({("mofo", 1e-4 * (i + 1), 0): points for i, points in enumerate(runs)})
    envelope = front(results, "mofo", *KL, resolution=10)
    by_loss = {loss: amount.mean for loss, amount in envelope}
    assert all(a.mean <= b.mean + 1e-12 for (_, a), (_, b) in pairwise(envelope))
    for loss, amount in [point for points in runs for point in points]:
        if loss <= 2.0:
            assert by_loss[loss] <= amount + 1e-12


@given(paths, losses)
def test_an_amount_at_equal_learning_is_never_below_the_front(points, target):
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

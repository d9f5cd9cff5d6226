"""Numbers over seeds."""

from mofo.report.spread import Pooled, distinguishable, pool_known


def test_pool_known_needs_the_number_of_every_seed():
    assert pool_known([1.0, 3.0]).mean == 2.0
    assert pool_known([1.0]).std is None
    assert pool_known([1.0, None]) is None
    assert pool_known([]) is None


def test_distinguishable_needs_disjoint_ranges():
    assert distinguishable(Pooled(0.2, 0.02, 3), Pooled(0.3, 0.02, 3)) is True
    assert distinguishable(Pooled(0.2, 0.06, 3), Pooled(0.3, 0.05, 3)) is False
    assert distinguishable(Pooled(0.2, None, 1), Pooled(0.3, 0.05, 3)) is None
    assert distinguishable(Pooled(0.2, 0.0, 2), Pooled(0.3, 0.0, 2)) is None  # three seeds are needed


def test_distinguishable_needs_more_than_the_probes_standard_error():
    assert distinguishable(Pooled(0.2, 0.01, 3, error=0.04), Pooled(0.3, 0.01, 3, error=0.04)) is False
    assert distinguishable(Pooled(0.2, 0.01, 3, error=0.03), Pooled(0.3, 0.01, 3, error=0.03)) is True


def test_direction_of_a_change_is_beyond_two_standard_errors_and_the_spread():
    assert Pooled(0.1, None, 1).direction == "worse"
    assert Pooled(-0.1, None, 1, error=0.04).direction == "better"
    assert Pooled(0.1, None, 1, error=0.06).direction == "unchanged"
    assert Pooled(0.1, 0.2, 3, error=0.01).direction == "unchanged"
    assert Pooled(0.0, None, 1).direction == "unchanged"

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

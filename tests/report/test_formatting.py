"""Numbers and words as they are written."""

import pytest
from fake import KL, LOSS

from mofo.report.formatting import joined, measured, number, plural, pooled, setting_value, span
from mofo.report.spread import Pooled


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.2345, "1.23"),
        (-0.01234, "−0.0123"),
        (0.000012, "0.0000"),
        (-0.000012, "0.0000"),
        (123.4, "123"),
        (12345.6, "12,346"),
        (2.5e9, "2.5e9"),
        (None, "–"),
    ],
)
def test_number_has_three_significant_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (0.2123, None, "0.212"),
        (0.2123, 0.0234, "0.21 ± 0.02"),
        (0.2123, 0.0134, "0.212 ± 0.013"),
        (0.2123, 0.00004, "0.2123 ± 0.0000"),
        (0.0, 0.02, "0.00 ± 0.02"),
        (4.45, 0.0, "4.45 ± 0.00"),
        (250.4, 8.1, "250 ± 8"),
    ],
)
def test_pooled_is_cut_where_the_spread_begins(mean, std, text):
    assert pooled(Pooled(mean, std, 3)) == text


def test_measured_shows_four_digits_of_what_is_learned():
    assert measured(Pooled(1.23456, None, 1), LOSS) == "1.235"
    assert measured(Pooled(1.23456, None, 1), KL) == "1.23"
    assert measured(None, KL) == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-4, "1e-4"), (5e-5, "5e-5"), (1.5e-4, "1.5e-4"), (0.15, "0.15"), (8, "8"), (True, "True"), ("int8", "int8")],
)
def test_setting_value_is_scientific_where_it_is_small(value, text):
    assert setting_value(value) == text


def test_words_for_counts_and_lists():
    assert [plural(1, "seed"), plural(2, "seed"), span([3, 1, 2]), span([2, 2])] == ["1 seed", "2 seeds", "1 to 3", "2"]
    assert [joined([]), joined(["a"]), joined(["a", "b", "c"])] == ["", "a", "a, b and c"]

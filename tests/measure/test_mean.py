"""Standard errors against their definitions, and against models measured unit by unit."""

import math
import statistics

import pytest
import torch

from mofo.measure import held_out_loss, write_texts
from mofo.measure.choice import ChoiceProbe
from mofo.measure.divergence import DivergenceProbe
from mofo.measure.mean import Mean, change_errors, errors
from mofo.measure.measured import Measured
from mofo.measure.text import WINDOW, TextProbe

QUESTIONS = [
    {"question": "what is blue?", "choices": ["the sky", "a king", "an old coat"], "answer": 0},
    {"question": "who is old?", "choices": ["the king", "the sea"], "answer": 0},
    {"question": "what is like a sea?", "choices": ["the blue sky", "a coat"], "answer": 1},
]


def row_loss(model, example):
    """Sum of the losses of one row's labelled tokens, and their number, by one plain pass."""
    ids, labels = torch.tensor([example["input_ids"]]), torch.tensor([example["labels"]])
    count = int((labels[:, 1:] != -100).sum())
    with torch.no_grad():
        return float(model(input_ids=ids, labels=labels).loss) * count, count


def test_mean_of_single_numbers_has_the_textbook_error():
    numbers = [1.0, 4.0, 2.5, 0.5]
    mean = Mean(numbers)
    assert mean == statistics.fmean(numbers)
    assert mean.error == pytest.approx(statistics.stdev(numbers) / math.sqrt(4))


def test_mean_weighs_tokens_and_not_units():
    mean = Mean([10.0, 1.0, 0.0], [5, 1, 0])
    assert mean == 11 / 6
    assert mean.counts == [5, 1]
    expected = math.sqrt(((10 - 5 * 11 / 6) ** 2 + (1 - 11 / 6) ** 2) * 2) / 6
    assert mean.error == pytest.approx(expected)


def test_mean_of_one_unit_has_no_error():
    assert Mean([3.0], [10]).error is None
    assert errors({"loss": Mean([3.0]), "plain": 1.0}) == {}


def test_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to take the mean of"):
        Mean([0.0], [0])


def test_mean_that_is_not_finite_has_an_error_that_is_not_finite():
    assert math.isnan(Mean([math.nan, 1.0]).error)


def test_change_error_compares_each_unit_with_itself():
    before, after = Mean([1.0, 5.0, 9.0]), Mean([1.5, 5.75, 9.25])
    assert after.change_error(before) == pytest.approx(statistics.stdev([0.5, 0.75, 0.25]) / math.sqrt(3))
    assert after.change_error(before) < after.error / 10
    assert after.change_error(Mean([1.0, 2.0])) is None
    assert change_errors({"a": before, "b": 1.0}, {"a": after, "b": 2.0, "c": after}) == {
        "a": after.change_error(before)
    }


def test_held_out_loss_has_the_error_of_rows_measured_one_by_one(base):
    examples = [{"input_ids": list(range(n)), "labels": list(range(n))} for n in (5, 40, 9, 17)]
    sums = [row_loss(base, example) for example in examples]
    mean = sum(total for total, _ in sums) / sum(count for _, count in sums)
    squares = sum((total - mean * count) ** 2 for total, count in sums)
    measured = held_out_loss(base, examples)["loss"]
    assert measured.error == pytest.approx(math.sqrt(squares * 4 / 3) / sum(c for _, c in sums), rel=1e-4)


def test_text_probe_has_the_error_of_windows_measured_one_by_one(base, tokenizer):
    words = "the sky is blue and the old king is like the sea " * 60
    ids = tokenizer(words, add_special_tokens=False).input_ids
    start = tokenizer("").input_ids
    windows = [ids[first : first + WINDOW] for first in range(0, len(ids), WINDOW)]
    examples = [{"input_ids": start + w, "labels": [-100] * len(start) + w} for w in windows]
    expected = Mean(*zip(*[row_loss(base, example) for example in examples], strict=True))
    measured = TextProbe("mine", words, tokenizer).measure(base)["loss"]
    assert len(windows) > 1
    assert measured.counts == expected.counts
    assert measured.error == pytest.approx(expected.error, rel=1e-3)


def test_divergence_has_the_error_of_texts_measured_one_by_one(base, tuned, tokenizer):
    texts = write_texts(base, tokenizer, texts=5, tokens=12)
    alone = [float(DivergenceProbe("divergence", base, [text]).measure(tuned)["kl"]) for text in texts]
    measured = DivergenceProbe("divergence", base, texts).measure(tuned)["kl"]
    assert measured.error == pytest.approx(statistics.stdev(alone) / math.sqrt(5), rel=1e-3)


def test_choice_probe_has_the_error_of_questions_measured_one_by_one(base, tokenizer):
    alone = [ChoiceProbe("mine", [question], tokenizer).measure(base) for question in QUESTIONS]
    measured = ChoiceProbe("mine", QUESTIONS, tokenizer).measure(base)
    for name, value in measured.items():
        expected = statistics.stdev(float(numbers[name]) for numbers in alone) / math.sqrt(3)
        assert value.error == pytest.approx(expected, rel=1e-3)


def test_measured_point_has_errors_of_numbers_and_changes():
    base = Measured({"sums": {"loss": Mean([1.0, 2.0])}}, {"text": {"loss": Mean([3.0, 4.0]), "own": 1.0}})
    tuned = Measured({"sums": {"loss": Mean([0.5, 1.0])}}, {"text": {"loss": Mean([3.5, 4.5]), "own": 2.0}})
    assert base.point(None).change_errors.forgotten == {}
    point = tuned.point(Measured.from_units(base.units))
    assert point.forgotten == {"text": {"loss": 4.0, "own": 2.0}}
    assert point.errors.forgotten == {"text": {"loss": 0.5}}
    assert point.errors.learned == {"sums": {"loss": 0.25}}
    assert point.change_errors.forgotten == {"text": {"loss": 0.0}}
    assert point.change_errors.learned == {"sums": {"loss": 0.25}}


def test_task_and_probe_of_one_name_keep_their_errors_apart():
    point = Measured({"text": {"loss": Mean([1.0, 2.0])}}, {"text": {"loss": Mean([1.0, 9.0])}}).point(None)
    assert point.errors.learned != point.errors.forgotten


def test_average_of_means_has_the_error_of_independent_parts():
    first, second = Mean([1.0, 0.0, 0.0, 1.0]), Mean([2.0, 4.0, 6.0])
    average = Mean.average([first, second])
    assert average == pytest.approx((first + second) / 2)
    assert average.error == pytest.approx(math.hypot(first.error, second.error) / 2)
    nested = Mean.average([average, Mean([0.0, 1.0])], [0.75, 0.25])
    assert nested == pytest.approx(0.75 * average + 0.25 * 0.5)
    later = Mean.average([Mean([1.0, 1.0, 0.0, 1.0]), Mean([3.0, 4.0, 7.0])])
    changes = [Mean([0.0, 1.0, 0.0, 0.0]), Mean([1.0, 0.0, 1.0])]
    assert later.change_error(average) == pytest.approx(math.hypot(*(mean.error for mean in changes)) / 2)
    assert later.change_error(first) is None
    assert Mean.average([first, Mean([1.0])]).error is None

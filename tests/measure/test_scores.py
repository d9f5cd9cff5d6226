"""How generated answers are judged."""

import pytest

from mofo.measure.scores import SCORES, choice, edit_similarity, rouge_l


@pytest.mark.parametrize(
    ("generated", "reference", "expected"),
    [
        (" B", "B", 1),
        ("b. The Bible is a book.", "B\nAn allusion is a brief mention.", 1),
        ("A or B", "B", 0),
        ("", "B", 0),
        ("Because of B", "B", 0),
        ("(C)", "C", 1),
    ],
)
def test_choice_is_the_first_word(generated, reference, expected):
    assert choice(generated, reference) == expected


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence():
    # "the cat ... mat" has 3 of the 4 generated and 3 of the 6 reference words
    assert rouge_l("the cat mat red", "The cat sat on the mat.") == pytest.approx(2 * 0.75 * 0.5 / (0.75 + 0.5))
    assert rouge_l("", "anything") == 0
    assert rouge_l("the same", "The same") == 1


def test_edit_similarity_counts_insertions_and_deletions():
    assert edit_similarity("return a", "return b") == pytest.approx(1 - 2 / 16)
    assert edit_similarity(" return a\n", "return a") == 1
    assert edit_similarity("", "x") == 0


def test_every_score_is_between_0_and_1_and_named():
    for score in SCORES.values():
        assert 0 <= score.judge("one thing", "another thing") <= 1
        assert score.label
        assert score.description
    assert SCORES["accuracy"].judge("so it is #### 12", "1 + 11 #### 12") == 1

import pytest

from mofo.data.tokens import IGNORED
from mofo.data.usage import check_positions, check_tokens, truncated, usage
from mofo.errors import UserError


def example(prompt, completion):
    ids = list(range(prompt + completion))
    return {"input_ids": ids, "labels": [IGNORED] * prompt + ids[prompt:], "prompt_ids": ids[:prompt], "answer": ""}


def test_usage_counts_rows_that_are_cut_and_rows_that_lose_all_that_is_learned():
    found = usage([example(2, 3), example(4, 4), example(5, 1), example(5, 9), example(0, 5)], 5)
    assert (found.rows, found.cut, found.left_out, found.usable, found.longest) == (5, 1, 2, 3, 5)
    assert found.by_reason("training") == {
        "training rows cut at max_length": 1,
        "training rows left out, as nothing to be learned is within max_length": 2,
    }
    assert usage([example(2, 3)], 5).by_reason("training") == {}


def test_truncated_keeps_tokens_and_labels_in_step():
    assert truncated(example(2, 3), 4)["labels"] == [IGNORED, IGNORED, 2, 3]
    assert truncated(example(2, 3), 4)["input_ids"] == [0, 1, 2, 3]


def test_rows_longer_than_the_model_takes_are_refused():
    check_positions(128, 128, "m")
    check_positions(10**6, None, "m")
    with pytest.raises(UserError, match="longest row has 129 tokens, and m takes at most 128: give --max-length 128"):
        check_positions(129, 128, "m")


def test_rows_with_tokens_that_the_model_does_not_know_are_refused():
    check_tokens([example(2, 3)], 5, "m")
    check_tokens([example(2, 3)], None, "m")
    with pytest.raises(UserError, match="have a token 4, and m knows 4, from 0 on: its tokenizer is larger"):
        check_tokens([example(1, 1), example(2, 3)], 4, "m")

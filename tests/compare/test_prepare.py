"""What is checked and counted before the first job."""

import json

import pytest

from mofo.compare.folder import OutputFolder
from mofo.compare.prepare import prepare
from mofo.compare.recipe import make_recipe, override
from mofo.errors import UserError
from mofo.files import read_jsonl
from reference.tiny_llama import make_model, make_tokenizer


@pytest.fixture
def prepared(tmp_path, tiny_model):
    """Prepares a comparison on rows and returns its folder."""

    def prepared(rows, **changes):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        values = {"model": tiny_model, "data": str(tmp_path / "rows.jsonl"), "held_out_rows": 2, "save": "none"}
        folder = OutputFolder(tmp_path / "out")
        prepare(make_recipe(values | changes), folder, overwrite=True)
        return folder

    return prepared


def questions(count, **more):
    return [{"question": f"{n}+1?", "answer": str(n + 1), **more} for n in range(count)]


def test_plan_counts_rows_that_are_not_used_as_they_are_by_reason(prepared):
    long = [{"question": "x" * 30, "answer": "y"}, {"question": "x", "answer": "y" * 30}]
    plan = prepared([*questions(6), *questions(2), *long], max_length=12, held_out_rows=1).plan
    assert plan.rows["repeated rows left out"] == 2
    assert plan.rows["training rows cut at max_length"] == 1
    assert plan.rows["training rows left out, as nothing to be learned is within max_length"] == 1
    assert plan.training_rows == 6
    assert prepared(questions(6)).plan.rows == {}


def test_rows_that_are_held_out_too_are_counted(prepared, tmp_path):
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions(2)))
    plan = prepared(questions(6), held_out=str(tmp_path / "held.jsonl")).plan
    assert plan.rows == {"training rows left out, as they are held out": 2}
    assert plan.training_rows == 4


def test_columns_and_turns_are_settings_of_the_recipe(prepared):
    rows = [{"Q": f"{n}?", "A": n} for n in range(5)]
    folder = prepared(rows, columns="question=Q,answer=A", turns="last")
    assert {row["answer"] for row in read_jsonl(folder.training_rows(0))} <= set("01234")
    assert folder.recipe.columns == {"question": "Q", "answer": "A"}
    assert folder.recipe.turns == "last"
    assert override(folder.recipe.to_dict(), {"columns": "text=T"})["columns"] == "text=T"
    with pytest.raises(UserError, match="columns has 'question', expected NAME=FIELD"):
        make_recipe({"columns": "question"})


def test_bad_row_is_named_by_its_number_in_the_file_and_nothing_is_left(prepared, tmp_path):
    rows = [*questions(5), {"messages": 1}]
    with pytest.raises(UserError, match=r"rows\.jsonl, row 6 has no question and no answer"):
        prepared(rows)
    chats = [
        {"messages": [{"role": "user", "content": str(n)}, {"role": "assistant", "content": "x"}]} for n in range(5)
    ]
    chats[3]["tools"] = [{"name": "f"}]
    with pytest.raises(UserError, match=r"rows\.jsonl, row 4: the chat template leaves out tools"):
        prepared(chats)
    assert not (tmp_path / "out").exists()


def test_answers_need_rows_that_ask_something(prepared, tmp_path):
    with pytest.raises(UserError, match="answers is 2, but rows of text ask nothing"):
        prepared([{"text": f"{n} words"} for n in range(5)], answers=2)
    assert not (tmp_path / "out").exists()


def test_rows_longer_than_the_models_positions_are_refused(prepared, tmp_path):
    rows = [{"text": f"{n}" + "x" * 300} for n in range(5)]
    with pytest.raises(UserError, match=r"takes at most 256: give --max-length 256"):
        prepared(rows)
    assert not (tmp_path / "out").exists()
    assert prepared(rows, max_length=256).plan.rows["training rows cut at max_length"] == 3


def test_tokens_that_the_model_does_not_know_are_refused(prepared, tmp_path):
    tokenizer = make_tokenizer()
    make_model(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "model")
    model = str(tmp_path / "model")
    assert prepared(questions(5), model=model).plan.training_rows == 3, "no row has the new token"
    rows = [{"text": f"a <new> thing, number {n}"} for n in range(5)]
    with pytest.raises(UserError, match=r"have a token 270, and .*model knows 270, from 0 on"):
        prepared(rows, model=model)


def test_tokenizer_without_end_and_padding_is_prepared(prepared, tmp_path):
    tokenizer = make_tokenizer()
    make_model(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.bos_token = None
    tokenizer.save_pretrained(tmp_path / "model")
    assert prepared(questions(5), model=str(tmp_path / "model")).plan.training_rows == 3

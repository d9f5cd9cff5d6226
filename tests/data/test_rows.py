import csv
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from mofo.data.rows import batch_order, encode, load_rows, split_rows, without
from mofo.errors import UserError

FORMS = {
    "messages": {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    "prompt": {"prompt": "2+2=", "completion": "4"},
    "question": {"question": "2+2?", "answer": "4"},
    "text": {"text": "four is two and two"},
}


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_from_every_file_type(tmp_path, suffix, form):
    if suffix == ".csv" and form == "messages":
        pytest.skip("a CSV cell holds no list")
    rows = [FORMS[form], FORMS[form]]
    noisy = [{**row, "source": "somewhere"} for row in rows]
    assert load_rows(write(tmp_path / f"rows{suffix}", noisy)) == rows


def test_the_limit_keeps_the_first_rows(tmp_path):
    rows = [{"text": str(i)} for i in range(5)]
    assert load_rows(write(tmp_path / "rows.jsonl", rows), limit=2) == rows[:2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "has no rows"),
        ("a.json", "[]", "has no rows"),
        ("a.json", '{"text": "x"}', "expected a list of rows"),
        ("a.json", "[", "cannot be read as json"),
        ("a.jsonl", '{"text": "x"}\n\n{"text": \n', "line 3 is not JSON"),
        ("a.jsonl", '{"words": "x"}\n', r"row 1 has the fields \['words'\]; expected messages"),
        ("a.jsonl", '["x"]\n', "row 1 has the fields of no object"),
        ("a.jsonl", '{"text": "x"}\n{"test": "y"}\n', "row 2 has no text"),
        ("a.jsonl", '{"text": "x"}\n{"text": ""}\n', "row 2 has no text"),
        ("a.jsonl", '{"question": "x", "answer": "y"}\n{"question": "x"}\n', "row 2 has no answer"),
        ("a.jsonl", '{"text": 3}\n', "row 1: text must be a text"),
        ("a.jsonl", '{"prompt": "x", "completion": ["y"]}\n', "row 1: completion must be a list of messages"),
        ("a.jsonl", '{"messages": [{"role": "user", "content": "x"}]}\n', "row 1: the last message must be the"),
        ("a.csv", "question\nx\n", "row 1 has the fields"),
        ("a.parquet", "not parquet", "cannot be read as parquet"),
        ("a.txt", "words", "is not a data file"),
    ],
)
def test_bad_files_are_named_with_the_row(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        load_rows(str(file))


def test_a_missing_file_and_an_unknown_family_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_rows(str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="no family 'gsm_simbolic'"):
        load_rows("reasoning-gym:gsm_simbolic")


def test_generated_problems_have_worked_answers_and_are_the_same_every_time():
    rows = load_rows("reasoning-gym:gsm_symbolic", limit=5)
    assert rows == load_rows("reasoning-gym:gsm_symbolic", limit=5)
    assert all("\n#### " in row["answer"] for row in rows)


def test_the_split_shares_no_row_and_keeps_repeated_rows_once():
    rows = [{"text": str(i % 10)} for i in range(30)]
    training, held_out = split_rows(rows, held_out=3, seed=0)
    assert len(training) == 7
    assert len(held_out) == 3
    assert not {row["text"] for row in training} & {row["text"] for row in held_out}
    assert (training, held_out) == split_rows(rows, held_out=3, seed=0)
    assert without(rows, held_out) == [row for row in rows if row not in held_out]
    with pytest.raises(UserError, match="10 distinct rows, too few to hold 10 out"):
        split_rows(rows, held_out=10, seed=0)


def test_the_loss_counts_on_the_completion_and_its_end_alone(tokenizer):
    example = encode(FORMS["question"], tokenizer, max_length=100)
    prompt = tokenizer.decode(example["prompt_ids"])
    learned = [token for token, label in zip(example["input_ids"], example["labels"], strict=True) if label != -100]
    assert prompt == "<|user|>2+2?</s><|assistant|>"
    assert tokenizer.decode(learned) == "4</s>"
    assert example["prompt_ids"] + learned == example["input_ids"]
    assert example["answer"] == "4"


@pytest.mark.parametrize("form", FORMS)
def test_every_form_ends_with_the_end_of_sequence_once(tokenizer, form):
    example = encode(FORMS[form], tokenizer, max_length=100)
    assert example["labels"][-1] == tokenizer.eos_token_id
    assert example["labels"][-2] != tokenizer.eos_token_id
    assert len(example["labels"]) == len(example["input_ids"])


def test_plain_prompt_and_completion_are_joined_as_they_are(tokenizer):
    example = encode(FORMS["prompt"], tokenizer, max_length=100)
    assert tokenizer.decode(example["input_ids"]) == "2+2=4</s>"


def test_text_is_learned_whole_and_cut_at_the_length(tokenizer):
    example = encode(FORMS["text"], tokenizer, max_length=4)
    assert len(example["input_ids"]) == 4
    assert example["labels"] == example["input_ids"]


def test_questions_without_a_chat_template_read_as_text(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    example = encode(FORMS["question"], tokenizer, max_length=100)
    assert tokenizer.decode(example["input_ids"]) == "Question: 2+2?\nAnswer: 4</s>"


def test_a_template_that_rewrites_the_prompt_is_refused(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(UserError, match="chat template"):
        encode(FORMS["question"], tokenizer, max_length=100)


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    steps=st.integers(1, 30),
    batch=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_the_order_shows_every_row_equally_often_and_depends_on_the_seed_alone(lengths, steps, batch, seed):
    order = batch_order(lengths, steps=steps, batch=batch, seed=seed)
    assert len(order) == steps * batch
    counts = [order.count(i) for i in range(len(lengths))]
    assert max(counts) - min(counts) <= 1
    assert order == batch_order(lengths, steps=steps, batch=batch, seed=seed)


def test_rows_of_similar_length_meet_in_a_batch():
    lengths = [1, 100] * 40
    order = batch_order(lengths, steps=20, batch=4, seed=0)
    batches = [{lengths[i] for i in order[start : start + 4]} for start in range(0, 80, 4)]
    assert sum(len(batch) == 1 for batch in batches) >= 18

import csv
import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from mofo.data.rows import drop_held_out, load_rows, split_rows
from mofo.errors import UserError


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
def test_load_rows_reads_every_form_from_every_file_type(tmp_path, suffix, form):
    if suffix == ".csv" and "messages" in form:
        pytest.skip("a CSV cell holds no list")
    noisy = [{**form, "source": "somewhere"}] * 2
    assert load_rows(write(tmp_path / f"rows{suffix}", noisy)) == [form, form]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("text", ["007", "NA", "null", "2024-01-01", "2020-01-01 10:00:00", "1e3", "True"])
def test_load_rows_leaves_text_as_it_is(tmp_path, suffix, text):
    rows = [{"question": text, "answer": text}]
    assert load_rows(write(tmp_path / f"rows{suffix}", rows)) == rows


def test_load_rows_limit_keeps_the_first_rows(tmp_path):
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
        ("a.jsonl", '["x"]\n', r'row 1 is \["x"\], expected an object with the fields messages'),
        ("a.jsonl", '{"text": "x"}\n{"test": "y"}\n', "row 2 has no text"),
        ("a.jsonl", '{"text": "x"}\n{"text": ""}\n', "row 2 has no text"),
        ("a.jsonl", '{"question": "x", "answer": "y"}\n{"question": "x"}\n', "row 2 has no answer"),
        ("a.jsonl", '{"text": 3}\n', "row 1: text must be a text"),
        ("a.jsonl", '{"prompt": "x", "completion": ["y"]}\n', "row 1: completion must be a list of messages"),
        (
            "a.jsonl",
            '{"prompt": "x", "completion": [{"role": "assistant", "content": "y"}]}\n',
            "row 1: prompt and completion must both be texts or both be lists of messages",
        ),
        ("a.jsonl", '{"messages": [{"role": "user", "content": "x"}]}\n', "row 1: the last message must be the"),
        ("a.csv", "question\nx\n", "row 1 has the fields"),
        ("a.parquet", "not parquet", "cannot be read as parquet"),
        ("a.txt", "words", "is not a data file"),
    ],
)
def test_load_rows_names_bad_files_and_rows(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        load_rows(str(file))


def test_load_rows_names_a_missing_file_and_an_unknown_family(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_rows(str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="no family 'gsm_simbolic'"):
        load_rows("reasoning-gym:gsm_simbolic")
    with pytest.raises(UserError) as caught:
        load_rows("reasoning-gym:nonsense")
    assert len(str(caught.value)) < 150


def test_load_rows_of_the_hub_says_so_without_a_network(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"are not a file and could not be fetched from the Hub"):
        load_rows("some-org/some-data:main")


def test_generated_rows_have_worked_answers_and_are_the_same_every_time():
    rows = load_rows("reasoning-gym:gsm_symbolic", limit=5)
    assert rows == load_rows("reasoning-gym:gsm_symbolic", limit=5)
    assert all("\n#### " in row["answer"] for row in rows)


def test_split_rows_shares_no_row_and_keeps_repeated_rows_once():
    rows = [{"text": str(i % 10)} for i in range(30)]
    training, held_out = split_rows(rows, held_out=3, seed=0)
    assert len(training) == 7
    assert len(held_out) == 3
    assert not {row["text"] for row in training} & {row["text"] for row in held_out}
    assert (training, held_out) == split_rows(rows, held_out=3, seed=0)
    assert drop_held_out(rows, held_out) == [row for row in rows if row not in held_out]
    with pytest.raises(UserError, match="10 distinct rows, too few to hold 10 out"):
        split_rows(rows, held_out=10, seed=0)

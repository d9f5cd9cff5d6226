"""Files of every usual kind, with values that readers like to change."""

import bz2
import datetime
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from mofo.data.rows import load_rows
from mofo.data.sources import read_file, read_source
from mofo.errors import UserError

ROWS = [{"question": f"{n}+1?", "answer": str(n + 1)} for n in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def zstandard(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard}


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv"])
def test_compressed_files_are_read(tmp_path, kind, ending):
    text = {".jsonl": LINES, ".json": json.dumps(ROWS), ".csv": "question,answer\n0+1?,1\n1+1?,2\n2+1?,3\n"}[kind]
    file = tmp_path / f"rows{kind}{ending}"
    file.write_bytes(COMPRESS[ending](text.encode()))
    assert load_rows(str(file)) == ROWS


@pytest.mark.parametrize("name", ["ROWS.JSONL", "rows.Json", "rows.ndjson", "ROWS.JSONL.GZ"])
def test_endings_of_any_case_are_read(tmp_path, name):
    content = LINES.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("GZ") else content)
    assert load_rows(str(tmp_path / name)) == ROWS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv"])
def test_byte_order_mark_is_no_text(tmp_path, kind, encoding):
    text = "question,answer\nä?,1\n" if kind == ".csv" else '{"question": "ä?", "answer": "1"}\n'
    file = tmp_path / f"rows{kind}"
    file.write_text(f"[{text}]" if kind == ".json" else text, encoding=encoding)
    assert load_rows(str(file)) == [{"question": "ä?", "answer": "1"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", LINES),
        ("rows.json", json.dumps(ROWS, indent=1)),
        ("rows.json", json.dumps({"version": 1, "notes": ["a"], "data": ROWS})),
        ("rows.json", "".join(json.dumps(row, indent=1) + "\n" for row in ROWS)),
        ("rows.jsonl", json.dumps(ROWS)),
        ("rows.jsonl", json.dumps(ROWS, indent=1)),
        ("rows.jsonl", LINES.replace("\n", "\r\n\r\n")),
        ("rows.csv", "question,answer\r\n0+1?,1\r\n\r\n1+1?,2\r\n2+1?,3"),
        ("rows.csv", "question;answer\n0+1?;1\n1+1?;2\n2+1?;3\n"),
        ("rows.tsv", "question\tanswer\n0+1?\t1\n1+1?\t2\n2+1?\t3\n"),
    ],
)
def test_layouts_of_files_are_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    assert load_rows(str(tmp_path / name)) == ROWS


VALUES = [
    2**53 + 1,
    2**70,
    1.5,
    None,
    True,
    "2020-01-01 10:00:00",
    "007",
    {"a": None},
    [[1, "x"], []],
    "line\nbreak\u2028",
]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_values_stay_as_they_were_written(tmp_path, name):
    rows = [{"text": "x", "value": value} for value in VALUES] + [{"text": "y"}]
    (tmp_path / name).write_text(json.dumps(rows) if name == "rows.json" else "\n".join(map(json.dumps, rows)))
    assert list(read_file(tmp_path / name)) == rows
    assert [list(row) for row in read_file(tmp_path / name)][-1] == ["text"]


def test_very_long_cells_and_quoted_commas_are_whole(tmp_path):
    long = "word, " * 100_000
    (tmp_path / "rows.csv").write_text(f'text,note\n"{long}","say ""hi"", then\ngo"\n')
    assert list(read_file(tmp_path / "rows.csv")) == [{"text": long, "note": 'say "hi", then\ngo'}]


@pytest.mark.parametrize(
    ("head", "names"),
    [
        ('"Frage, kurz";"Antwort"', ["Frage, kurz", "Antwort"]),
        ("question\tanswer, short", ["question", "answer, short"]),
        ("question;answer;note, if any", ["question", "answer", "note, if any"]),
        ('"a;b","c;d"', ["a;b", "c;d"]),
        ("text", ["text"]),
    ],
)
def test_separator_is_that_of_the_head_outside_of_quotation_marks(tmp_path, head, names):
    cells = [f"cell {i}" for i in range(len(names))]
    separator = "\t" if "\t" in head else "," if head.startswith('"a') else ";"
    (tmp_path / "rows.csv").write_text(f"{head}\n{separator.join(cells)}\n")
    assert list(read_file(tmp_path / "rows.csv")) == [dict(zip(names, cells, strict=True))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("question,answer\na,b\nwhat, then,c\n", "line 3 has 3 cells, expected 2: put quotation marks"),
        ('question,answer\na,"b\nc,d\ne,f\n', "cannot be read as csv: unexpected end of data"),
        ('question,answer\n"a \\"b\\"",c\n', "cannot be read as csv"),
        ("answer,answer\na,b\n", "two columns of the name 'answer'"),
        ("question,answer\na\n", "row 1 has no answer"),
    ],
)
def test_damaged_csv_is_refused(tmp_path, content, message):
    (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        load_rows(str(tmp_path / "rows.csv"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "\xe4"}\n', "is not UTF-8"),
        ("a.csv", b"text\n\xe4\n", "is not UTF-8"),
        ("a.jsonl.gz", b"not gzip", "cannot be read as jsonl"),
        ("a.jsonl.xz", b"not xz", "cannot be read as jsonl"),
        ("a.jsonl.zst", b"not zst", "cannot be read as jsonl"),
        ("a.jsonl.gz", gzip.compress(LINES.encode() * 100)[:-20], "cannot be read as jsonl"),
        ("a.arrow", b"not arrow", "cannot be read as arrow"),
        ("a.parquet", b"", "cannot be read as parquet"),
        ("a.json", b'{"a": [{"x": 1}], "b": [{"x": 1}]}', "expected a list of rows"),
        ("a.json", b'{"messages": [{"role": "user", "content": "x"}]}', "expected a list of rows"),
        ("a.json", b"3", "holds one int, expected a list of rows"),
        (
            "a.json",
            b'{"train": [{"a": 1}], "test": [{"a": 2}]}',
            "one object with the keys train, test, expected",
        ),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a", b"x", "is not a data file"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_rows(str(tmp_path / name))


def test_tables_keep_values_and_lose_only_nulls_that_they_added(tmp_path):
    turns = [
        {"role": "user", "content": "hi", "at": datetime.datetime(2020, 1, 1)},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "2"},
    ]
    table = pa.Table.from_pylist([{"messages": turns}])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pa.ipc.new_file(str(tmp_path / "rows.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("rows.parquet", "rows.arrow"):
        assert load_rows(str(tmp_path / name)) == [
            {"messages": [{**turns[0], "at": "2020-01-01T00:00:00"}, *turns[1:]]}
        ]


def test_folders_and_patterns_are_read_in_the_order_of_names(tmp_path):
    (tmp_path / "b.jsonl").write_text(json.dumps(ROWS[1]) + "\n")
    (tmp_path / "a.json").write_text(json.dumps(ROWS[:1]))
    (tmp_path / "c.csv").write_text("question,answer\n2+1?,3\n")
    (tmp_path / "notes.txt").write_text("no data")
    assert load_rows(str(tmp_path)) == ROWS
    assert load_rows(str(tmp_path / "[ab].json*")) == ROWS[:2]
    with pytest.raises(UserError, match="No data file matches"):
        load_rows(str(tmp_path / "*.parquet"))
    with pytest.raises(UserError, match="does not exist"):
        load_rows(str(tmp_path / "none"))


def test_folder_with_splits_has_the_rows_of_each(tmp_path):
    for split, rows in (("train", ROWS[:2]), ("test", ROWS[2:])):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_rows(str(tmp_path)) == ROWS[:2]
    assert load_rows(str(tmp_path), split="test") == ROWS[2:]
    with pytest.raises(UserError, match="has no split 'dev', only train, test"):
        load_rows(str(tmp_path), split="dev")


def test_folder_of_a_saved_data_set_is_read(tmp_path):
    saved = Dataset.from_list(ROWS)
    saved.save_to_disk(tmp_path / "one")
    DatasetDict({"train": saved, "test": saved.select([0])}).save_to_disk(tmp_path / "two")
    assert load_rows(str(tmp_path / "one")) == ROWS
    assert load_rows(str(tmp_path / "two"), split="test") == ROWS[:1]


def test_folder_without_data_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no data file"):
        load_rows(str(tmp_path))
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(UserError, match=r"rows\.jsonl has no data file"):
        load_rows(str(tmp_path / "rows.jsonl"))


def test_no_more_rows_are_read_than_asked_for(tmp_path):
    (tmp_path / "rows.jsonl").write_text(LINES + "broken")
    assert load_rows(str(tmp_path / "rows.jsonl"), limit=3) == ROWS
    with pytest.raises(UserError, match="line 4 is not JSON"):
        load_rows(str(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize("reachable", [True, False])
def test_hub_data_sets_have_a_configuration_and_are_streamed_for_a_few_rows(monkeypatch, reachable):
    asked = []

    def load_dataset(*names, **options):
        asked.append((names, options))
        return Dataset.from_list(ROWS)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr("mofo.data.sources.ask_only_if_reachable", lambda: reachable)
    assert list(read_source("org/data:main", "test", whole=False)) == ROWS
    assert list(read_source("org/data", "train")) == ROWS
    assert asked == [
        (("org/data", "main"), {"split": "test", "streaming": reachable}),  # what was fetched before lies here whole
        (("org/data", None), {"split": "train", "streaming": False}),
    ]

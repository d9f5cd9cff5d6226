"""`mofo data`."""

import io
import json
import re

import pytest
from rich.console import Console

from mofo import cli
from mofo.data.show import describe_data, shown

ROWS = [
    {"Prompt": "what is [bold]two[/bold] plus three?", "Reply": 5, "source": "x"},
    {"Prompt": "two?", "Reply": "2"},
    {"Prompt": "two?", "Reply": "2"},
]
COLUMNS = {"question": "Prompt", "answer": "Reply"}


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(file)


def test_description_has_form_lengths_and_what_is_learned(data, tiny_model):
    found = describe_data(data, tiny_model, columns=COLUMNS, max_length=30)
    assert found.form == ["question", "answer"]
    assert (found.rows, found.usable, found.repeated, found.max_positions) == (3, 2, 1, 256)
    assert found.by_reason == {"training rows left out, as nothing to be learned is within max_length": 1}
    assert found.lengths.shortest == found.lengths.median == 9
    assert found.lengths.learned == 6
    assert sum(bar.rows for bar in found.lengths.histogram) == 3
    assert found.lengths.histogram[-1].up_to >= found.lengths.longest
    assert [(part.text, part.learned) for part in found.first[1]] == [
        ("<|user|>two?</s><|assistant|>", False),
        ("2</s>", True),
    ]
    assert [part.tokens for part in found.first[0]] == [30]


def test_learned_tokens_are_in_colour_and_texts_are_shown_as_they_are(data, tiny_model):
    console = Console(file=io.StringIO(), force_terminal=True, width=80, markup=False, highlight=False)
    console.print(shown(describe_data(data, tiny_model, columns=COLUMNS)))
    text = console.file.getvalue()
    assert re.search(r"\x1b\[1;32m5</s>\x1b\[0m", text)
    assert "[bold]two[/bold]" in text
    assert "1 repeated rows" in text


def test_json_is_the_description(capsys, data, tiny_model):
    argv = ["data", data, "--model", tiny_model, "--columns", "question=Prompt,answer=Reply", "--rows", "1", "--json"]
    assert cli.main(argv) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == 1
    assert printed["form"] == ["question", "answer"]
    assert cli.main(argv[:-1]) == 0
    assert "Row 1: 2 of " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Perhaps --columns question=Prompt,answer=Reply fits"),
        (["--columns", "question=Prompt,answer=Answer"], "row 1 has no Answer, which --columns names"),
        (["--rows", "0"], "--rows is 0"),
    ],
)
def test_mistakes_are_one_sentence(capsys, data, tiny_model, flags, message):
    assert cli.main(["data", data, "--model", tiny_model, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("flags", [["--columns", "question"], ["--max-length", "1"], ["--turns", "first"]])
def test_flags_of_another_form_end_the_program(data, flags):
    with pytest.raises(SystemExit) as end:
        cli.main(["data", data, *flags])
    assert end.value.code == 2

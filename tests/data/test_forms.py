"""The forms of rows, and what each becomes."""

import json

import pytest

from mofo.data.forms import parse_columns
from mofo.data.rows import load_rows
from mofo.errors import UserError

USER, REPLY = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
SHAREGPT = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
SYSTEM = {"role": "system", "content": "be brief"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": None}}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]


@pytest.fixture
def load(tmp_path):
    def load(*rows, **options):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
        return load_rows(str(file), **options)

    return load


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "add", "input": "1, 2", "output": "3"}, {"question": "add\n\n1, 2", "answer": "3"}),
        ({"instruction": "add", "input": "", "output": "3", "text": "x"}, {"question": "add", "answer": "3"}),
        ({"instruction": "add", "output": 3}, {"question": "add", "answer": "3"}),
        (
            {"instruction": "hi", "output": "hello", "system": "be brief", "history": [["a", "b"]]},
            {
                "prompt": [SYSTEM, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, USER],
                "completion": [REPLY],
            },
        ),
        ({"query": "q", "response": "r", "type": "MATH"}, {"question": "q", "answer": "r"}),
        ({"problem": "q", "solution": "r", "answer": "7"}, {"question": "q", "answer": "r"}),
        (
            {"conversations": SHAREGPT},
            {"messages": [USER, REPLY]},
        ),
        (
            {
                "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}],
                "system": "be brief",
            },
            {"messages": [SYSTEM, USER, REPLY]},
        ),
        ({"conversations": [USER, REPLY], "id": 1}, {"messages": [USER, REPLY]}),
        ({"messages": [SYSTEM, USER, REPLY], "prompt": "hi"}, {"messages": [SYSTEM, USER, REPLY]}),
        ({"messages": json.dumps([USER, REPLY])}, {"messages": [USER, REPLY]}),
        ({"messages": [USER, REPLY], "tools": TOOLS}, {"messages": [USER, REPLY], "tools": TOOLS}),
        ({"messages": [USER, REPLY], "tools": json.dumps(TOOLS)}, {"messages": [USER, REPLY], "tools": TOOLS}),
        ({"messages": [USER, REPLY], "tools": []}, {"messages": [USER, REPLY]}),
        ({"prompt": [USER], "completion": [REPLY]}, {"prompt": [USER], "completion": [REPLY]}),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
                    REPLY,
                ]
            },
            {"messages": [USER, REPLY]},
        ),
        ({"question": "1+1?", "answer": 2}, {"question": "1+1?", "answer": "2"}),
        ({"question": "1-1?", "answer": 0}, {"question": "1-1?", "answer": "0"}),
        ({"prompt": "1/4=", "completion": 0.25}, {"prompt": "1/4=", "completion": "0.25"}),
    ],
)
def test_forms_become_the_four_that_are_known(load, row, expected):
    assert load(row, row) == [expected, expected]


def test_numbers_are_text_as_they_were_written(load):
    written = ["2.50", "1e3", "9007199254740993", "-0", "1.0"]
    rows = load(*(f'{{"question": "?", "answer": {number}}}\n' for number in written))
    assert [row["answer"] for row in rows] == [*written[:3], "0", "1.0"]


def test_calls_of_tools_stand_in_place_of_content(load):
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    rest = [{"role": "tool", "content": "1"}, REPLY]
    without = {"role": "assistant", "tool_calls": [CALL]}
    assert (
        load({"messages": [USER, called, *rest]}, {"messages": [USER, without, *rest]})
        == [{"messages": [USER, called, *rest]}] * 2
    )
    sharegpt = [
        {"from": "human", "value": "hi"},
        {"from": "function_call", "value": json.dumps(CALL["function"])},
        {"from": "observation", "value": "1"},
        {"from": "gpt", "value": "hello"},
    ]
    assert load({"conversations": sharegpt}) == [{"messages": [USER, called, *rest]}]


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"Prompt": "a", "Reply": "b"}, "question=Prompt,answer=Reply", {"question": "a", "answer": "b"}),
        ({"question": "a", "answer": "b"}, "question=answer, answer=question", {"question": "b", "answer": "a"}),
        ({"question": "a", "answer": "b", "body": "c"}, "text=body", {"text": "c"}),
        ({"question": "a", "answer": "b", "final": 7}, "answer=final", {"question": "a", "answer": "7"}),
        ({"chat": [USER, REPLY], "tools": TOOLS}, "messages=chat", {"messages": [USER, REPLY], "tools": TOOLS}),
        ({"i": "a", "o": "b", "c": "d"}, "instruction=i,output=o,input=c", {"question": "a\n\nd", "answer": "b"}),
    ],
)
def test_columns_name_the_fields_of_a_form(load, row, columns, expected):
    assert load(row, columns=parse_columns(columns)) == [expected]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"questoin": "a"}, r"--columns has questoin \(did you mean question\?\)"),
        ({"question": "A", "answer": "b"}, r"row 1 has no A, which --columns names.*its fields are a, b"),
        ({"question": "a"}, "row 1 has no form with question alone; its fields are a, b"),
        ({"question": "a", "text": "b"}, "no form with question and text alone"),
    ],
)
def test_columns_that_do_not_fit_are_refused(load, columns, message):
    with pytest.raises(UserError, match=message):
        load({"a": "x", "b": "y"}, columns=columns)


@pytest.mark.parametrize("words", ["question", "question=", "=a", "question=a,b"])
def test_columns_of_another_form_are_refused(words):
    with pytest.raises(ValueError, match="expected NAME=FIELD"):
        parse_columns(words)


@pytest.mark.parametrize(
    ("row", "suggestion"),
    [
        ({"Prompt": "a", "Reply": "b"}, "question=Prompt,answer=Reply"),
        ({"id": 3, "user_input": "a", "model_output": "b"}, "question=user_input,answer=model_output"),
        ({"context": "a", "target": "b"}, "question=context,answer=target"),
        ({"question": "a", "a": "b"}, "question=question,answer=a"),
        ({"chat": [{"role": "user", "content": "a"}]}, "messages=chat"),
        ({"dialog": [{"from": "human", "value": "a"}]}, "messages=dialog"),
        ({"content": "a", "url": "b"}, "text=content"),
        ({"The Body": "a"}, "'text=The Body'"),
        ({"n": [1]}, "question=Prompt,answer=Reply"),
    ],
)
def test_unknown_form_lists_its_fields_and_suggests_columns(load, row, suggestion):
    with pytest.raises(UserError) as refusal:
        load(row)
    assert f"has the fields {sorted(row)}" in str(refusal.value)
    assert f"--columns {suggestion}" in str(refusal.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a", "answer": " \n"}, "row 2 has no answer"),
        ({"question": "a", "answer": None}, "row 2 has no answer"),
        ({"question": "a", "answer": True}, "row 2: answer must be a text, not true or false"),
        ({"question": "a", "answer": {"text": "b"}}, "row 2: answer must be a text, not an object"),
        ({"question": "a", "answer": ["b"]}, "row 2: answer must be a text, not a list"),
    ],
)
def test_answers_that_are_none_name_the_row(load, row, message):
    with pytest.raises(UserError, match=message):
        load({"question": "a", "answer": "b"}, row)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([REPLY], "no message before the assistant's"),
        ([USER], "the last message must be the assistant's"),
        ("hi", "messages must be a list of messages"),
        (["hi"], "messages must be a list of messages"),
        ([{"role": "user"}, REPLY], "messages must be a list of messages"),
        ([USER, {"role": "assistant", "content": " "}], "has no answer: turn 2 of messages"),
        ([USER, {"role": "assistant", "content": ""}, USER, REPLY], "has no answer: turn 2 of messages"),
        ([{"role": "user", "content": 5}, REPLY], "turn 1 of messages must be a text, or a list of parts"),
        ([{"role": "user", "content": None}, REPLY], "turn 1 of messages must be a text.*not null"),
        ([{"role": "user", "content": [{"type": "image"}]}, REPLY], "turn 1 of messages has a part .* type 'image'"),
        ([{"role": "user", "content": [3]}, REPLY], "turn 1 of messages has a part that is a number"),
        ([{"from": "narrator", "value": "x"}, REPLY], "turn 1 of messages is from 'narrator'"),
        ("[{", "messages is not JSON"),
    ],
)
def test_conversations_that_cannot_be_learned_name_the_row(load, messages, message):
    with pytest.raises(UserError, match=rf"rows\.jsonl, row 2.*{message}"):
        load({"messages": [USER, REPLY]}, {"messages": messages})


@pytest.mark.parametrize("tools", ["{", "7", 7, {"name": "add"}])
def test_tools_that_are_no_list_name_the_row(load, tools):
    with pytest.raises(UserError, match=r"row 1: tools"):
        load({"messages": [USER, REPLY], "tools": tools})

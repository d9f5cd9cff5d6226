"""Rows of every form and file, as `mofo sft` gives them to trl."""

import json

import pytest
from datasets import load_dataset
from tokenizers.processors import TemplateProcessing

from mofo.cli import main as mofo
from mofo.errors import UserError
from mofo.trainers.trl import command as trl_command
from mofo.trainers.trl import training as trl_training
from mofo.trainers.trl.arguments import parse
from mofo.trainers.trl.sft import OBJECTIVE as SFT
from mofo.trainers.trl.training import train
from reference.sft import PROMPTS, flags
from reference.tiny_llama import make_model, make_tokenizer

USER, REPLY = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": None}}}


@pytest.fixture
def read(settings, tmp_path):
    """What trl reads of rows."""

    def read(*rows, **more):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        args = parse(SFT, flags(settings, dataset_name=file, **more))
        (given,) = args.mixture.datasets
        return list(load_dataset(given.path, data_files=given.data_files, split="train"))

    return read


@pytest.fixture
def model(tmp_path):
    """Makes a model whose tokenizer lacks something."""

    def model(**changes):
        tokenizer = make_tokenizer()
        made = make_model(tokenizer)
        for name, value in changes.items():
            setattr(tokenizer, name, value)
        for part in (made, tokenizer):
            part.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return model


@pytest.mark.parametrize(
    ("row", "more", "expected"),
    [
        ({"Prompt": "hi", "Reply": "hello"}, {"columns": "question=Prompt,answer=Reply"}, None),
        ({"instruction": "hi", "input": "", "output": "hello"}, {}, None),
        ({"query": "hi", "response": "hello"}, {}, None),
        (
            {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
            {},
            {"messages": [USER, REPLY]},
        ),
        (
            {"prompt": "on", "completion": "2020-01-01 10:00:00"},
            {},
            {"prompt": "on", "completion": "2020-01-01 10:00:00"},
        ),
    ],
)
def test_forms_become_trls(read, row, more, expected):
    assert read(row, **more) == [expected or {"prompt": [USER], "completion": [REPLY]}]


def test_tools_and_their_arguments_stay_as_they_are(read, model):
    template = "{{ tools | tojson }}{% for m in messages %}{{ m | tojson }}</s>{% endfor %}"
    called = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "1"},
        REPLY,
    ]
    tools = [{"type": "function", "function": {"name": "add"}}]
    rows = [{"messages": called, "tools": tools}, {"messages": [USER, REPLY]}]
    found = read(*rows, model_name_or_path=model(chat_template=template), max_length=256)
    assert found == [rows[0], {"messages": [USER, REPLY], "tools": None}]


def test_questions_are_texts_where_there_is_no_chat_template(read, model):
    row = {"question": "1+1?", "answer": "2"}
    expected = {"prompt": "Question: 1+1?\nAnswer:", "completion": " 2"}
    assert read(row, model_name_or_path=model(chat_template=None)) == [expected]


@pytest.mark.parametrize(
    ("changes", "row", "message"),
    [
        ({"chat_template": None}, {"messages": [USER, REPLY]}, "has no chat template"),
        ({"chat_template": "{{ raise_exception('no system') }}"}, {"messages": [USER, REPLY]}, "refuses .*no system"),
        ({"eos_token": None}, {"text": "x"}, "has no end-of-sequence token: name one .* --eos_token"),
        ({}, {"messages": [USER, REPLY], "tools": [{"name": "f"}]}, "leaves out tools"),
    ],
)
def test_row_that_the_tokenizer_cannot_write_is_named(read, model, changes, row, message):
    with pytest.raises(UserError, match=rf"rows\.jsonl, row 1: .*{message}"):
        read(row, model_name_or_path=model(**changes))


def test_rows_of_different_kinds_are_refused(read):
    with pytest.raises(UserError, match="row 2: it has prompt of messages and completion of messages, and the first"):
        read(PROMPTS[0], {"prompt": [USER], "completion": [REPLY]})


def test_folders_patterns_and_generated_problems_are_data(settings, tmp_path):
    (tmp_path / "rows").mkdir()
    for n, row in enumerate(PROMPTS[:2]):
        (tmp_path / "rows" / f"{n}.JSON").write_text(json.dumps([row]))
    for name in (tmp_path / "rows", tmp_path / "rows" / "*.JSON", "reasoning-gym:basic_arithmetic"):
        assert parse(SFT, flags(settings, dataset_name=name)).mixture.datasets[0].path == "parquet"


def test_hub_data_set_of_a_form_that_trl_does_not_know_is_converted(settings, trainers, monkeypatch):
    rows = [{"query": row["prompt"], "response": row["completion"], "type": "x"} for row in PROMPTS]
    seen = []

    def read_source(spec, split, *, whole=True):
        seen.append((spec, split, whole))
        return iter(rows)

    monkeypatch.setattr(trl_training, "read_source", read_source)
    monkeypatch.setattr("mofo.data.rows.read_source", read_source)
    train("sft", flags(settings, dataset_name="org/data:main", max_steps=1))
    assert seen == [("org/data:main", "train", False), ("org/data:main", "train", True)]
    ids = trainers[0].train_dataset[0]["input_ids"]
    assert "plus zero is </s><|assistant|>00" in trainers[0].processing_class.decode(ids)


def test_rows_that_are_cut_are_counted_before_training(settings, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(trl_command, "launch_command", lambda _: None)
    (tmp_path / "rows.jsonl").write_text(
        "".join(
            json.dumps({"question": q, "answer": a}) + "\n" for q, a in [("x" * 60, "y"), ("x", "y" * 60), ("x", "y")]
        )
    )
    argv = flags(settings, dataset_name=tmp_path / "rows.jsonl", max_length=20)
    for _ in range(2):
        assert mofo(["sft", *argv]) == 0
        assert capsys.readouterr().err == (
            "mofo sft: 1 training rows cut at max_length\n"
            "mofo sft: 1 training rows left out, as nothing to be learned is within max_length\n"
        )
    with pytest.raises(UserError, match="has a completion within 3 tokens: raise --max_length"):
        parse(SFT, flags(settings, dataset_name=tmp_path / "rows.jsonl", max_length=3))


@pytest.mark.parametrize("changed", [{}, {"packing": True}])
def test_rows_longer_than_the_models_positions_are_refused(settings, tmp_path, changed):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "x" * 300}) + "\n")
    argv = flags(settings, dataset_name=tmp_path / "rows.jsonl", **changed)
    with pytest.raises(UserError, match=r"takes at most 256: give --max-length 256"):
        parse(SFT, argv)
    parse(SFT, [*argv, "--max-length", "256"])


@pytest.mark.parametrize(
    ("columns", "message"), [("question", "expected NAME=FIELD"), ("question=a,answer=b", "row 1 has no a, which")]
)
def test_columns_that_do_not_fit_are_refused(settings, columns, message):
    with pytest.raises(UserError, match=message):
        parse(SFT, flags(settings, columns=columns))


@pytest.mark.parametrize(
    ("adds", "row", "written", "learned"),
    [
        ("<s> $A", {"text": "<s>hello"}, "<s>hello</s>", "<s>hello</s>"),
        ("<s> $A", {"text": "hello"}, "<s>hello</s>", "<s>hello</s>"),
        ("<s> $A </s>", {"text": "<s>a</s>b"}, "<s>a</s>b</s>", "<s>a</s>b</s>"),
        ("$A </s>", {"prompt": "hi", "completion": " yo"}, "hi yo</s>", " yo</s>"),
        ("<s> $A </s>", {"prompt": "<s>hi", "completion": " yo</s>"}, "<s>hi yo</s>", " yo</s>"),
    ],
)
def test_start_and_end_that_the_tokenizer_adds_are_there_once(
    settings, trainers, model, tmp_path, adds, row, written, learned
):
    folder = model()
    tokenizer = make_tokenizer()
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=adds, special_tokens=special)
    tokenizer.save_pretrained(folder)
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * 4)
    train("sft", flags(settings, model_name_or_path=folder, dataset_name=tmp_path / "rows.jsonl", max_steps=1))
    found = trainers[0].train_dataset[0]
    assert trainers[0].processing_class.decode(found["input_ids"]) == written
    assert trainers[0].processing_class.decode([label for label in found["labels"] if label != -100]) == learned


@pytest.mark.parametrize("chosen", [True, False])
def test_it_is_said_that_all_turns_of_a_conversation_are_learned(settings, monkeypatch, capsys, tmp_path, chosen):
    monkeypatch.setattr(trl_command, "launch_command", lambda _: None)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": [USER, REPLY]}) + "\n")
    assert mofo(["sft", *flags(settings, dataset_name=tmp_path / "rows.jsonl", assistant_only_loss=chosen)]) == 0
    assert ("every token of the conversations is learned" in capsys.readouterr().err) is not chosen

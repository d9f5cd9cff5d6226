"""`mofo dpo`: pairs of every form, and a training of a tiny model that is resumed to the bit."""

import json
import shutil
from pathlib import Path

import pytest
from datasets import load_dataset

from mofo.errors import UserError
from mofo.forgetting import load_forgetting
from mofo.trainers.trl.arguments import parse
from mofo.trainers.trl.command import main
from mofo.trainers.trl.dpo import OBJECTIVE
from mofo.trainers.trl.rows import row_counts
from mofo.trainers.trl.training import train
from mofo.training import load_training
from reference.sft import equal, flags, weights
from reference.tiny_llama import make_model, make_tokenizer

USER = {"role": "user", "content": "2+2"}
GOOD, BAD = {"role": "assistant", "content": "4"}, {"role": "assistant", "content": "5"}
PAIRS = [{"prompt": f"{n}+0=", "chosen": f"{n}", "rejected": f"{n + 1}"} for n in range(8)]


@pytest.fixture
def pairs(settings, tmp_path):
    """Settings of a short training on pairs."""
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    changes = {"dataset_name": str(file), "learning_rate": 0.001, "logging_steps": 1}
    return {**settings, **changes}


@pytest.fixture
def read(pairs, tmp_path):
    """What trl reads of rows, and what is counted."""

    def read(*rows, **more):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (given,) = parse(OBJECTIVE, flags(pairs, dataset_name=file, **more)).mixture.datasets
        return list(load_dataset(given.path, data_files=given.data_files, split="train")), given.data_files

    return read


CHATS = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}


@pytest.mark.parametrize(
    ("row", "more", "expected"),
    [
        (PAIRS[0], {}, PAIRS[0]),
        ({"chosen": "2+2=4", "rejected": "2+2=5"}, {}, {"chosen": "2+2=4", "rejected": "2+2=5"}),
        (CHATS, {}, CHATS),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, {}, CHATS),
        ({"prompt": "2+2", "chosen": [USER, GOOD], "rejected": [USER, BAD], "score": 1.5}, {}, CHATS),
        ({"prompt": "2+2", "chosen": [GOOD], "rejected": [BAD]}, {}, CHATS),
        ({"prompt": [USER], "chosen": "4", "rejected": "5"}, {}, CHATS),
        ({"question": "2+2", "chosen": "4", "rejected": 5}, {}, CHATS),
        ({"ask": "2+2", "good": "4", "bad": "5"}, {"columns": "question=ask,chosen=good,rejected=bad"}, CHATS),
    ],
)
def test_forms_become_trls(read, row, more, expected):
    assert read(row, **more)[0] == [expected]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "a", "answer": "b"},
            r"has the fields \['answer', 'question'\]; expected question and chosen and",
        ),
        ({"chosen": "a"}, r"expected .*chosen and rejected"),
        ({"chosen": "a", "rejected": ""}, "row 1 has no rejected"),
        ({"chosen": "a", "rejected": [BAD]}, "row 1: chosen and rejected must both be texts or both be lists"),
        ({"chosen": [USER, GOOD], "rejected": [BAD]}, "row 1 has no prompt, and chosen and rejected do not begin"),
        ({"chosen": [USER, GOOD], "rejected": [USER, USER]}, "row 1: the assistant says nothing in rejected"),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": 7.5}, "row 1: chosen and rejected must both be"),
        ({"chosen": [USER, GOOD], "rejected": [USER, GOOD]}, "No row of .* has answers that differ"),
    ],
)
def test_pairs_that_cannot_be_used_are_named(read, row, message):
    with pytest.raises(UserError, match=message):
        read(row)


def test_rows_of_two_kinds_are_refused(read):
    with pytest.raises(UserError, match=r"row 2: it has .*messages.*, and the first row .*text"):
        read(PAIRS[0], CHATS)


def test_equal_and_long_pairs_are_counted(read):
    same = {"prompt": "a", "chosen": "b", "rejected": "b"}
    long = {"prompt": "a", "chosen": "b " * 50, "rejected": "c"}
    rows, file = read(PAIRS[0], same, long, max_length=32)
    assert rows == [PAIRS[0], long]
    assert row_counts(Path(file)) == {"rows left out, as their answers are equal": 1, "rows cut at max_length": 1}


def test_a_conversation_needs_a_template(read, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    for part in (make_model(tokenizer), tokenizer):
        part.save_pretrained(tmp_path / "plain")
    plain = {"prompt": "Question: 2+2\nAnswer:", "chosen": " 4", "rejected": " 5"}
    row = {"question": "2+2", "chosen": "4", "rejected": "5"}
    assert read(row, model_name_or_path=tmp_path / "plain")[0] == [plain]
    with pytest.raises(UserError, match="row 1: the tokenizer has no chat template"):
        read(CHATS, model_name_or_path=tmp_path / "plain")


def test_extras_that_weigh_the_tokens_of_answers_are_refused(pairs):
    del pairs["fraction"]
    with pytest.raises(UserError, match="dft changes the loss on answers to be copied, and mofo dpo has no such loss"):
        parse(OBJECTIVE, flags(pairs, method="adamw+dft"))


def test_a_wrong_flag_names_the_command(pairs):
    with pytest.raises(UserError, match=r"`mofo dpo --help` lists the flags"):
        parse(OBJECTIVE, flags(pairs, beta="much"))


@pytest.mark.parametrize("method", ["mofo", "adamw", "mofo+self-distill"])
def test_a_resumed_training_ends_the_same(pairs, tmp_path, method):
    if method == "adamw":
        del pairs["fraction"]
    if "self-distill" in method:
        pairs["method_settings"] = "self-distill.texts=2,self-distill.tokens=8"
    whole, again = tmp_path / "whole", tmp_path / "again"
    train("dpo", flags(pairs, method=method, output_dir=whole, save_steps=2))
    shutil.copytree(whole / "checkpoint-2", again / "checkpoint-2")
    checkpoint = again / "checkpoint-2"
    train("dpo", flags(pairs, method=method, output_dir=again, resume_from_checkpoint=checkpoint))
    assert equal(weights(whole), weights(again))


def test_chosen_becomes_preferred_and_the_record_says_so(pairs, tmp_path):
    Path(pairs["dataset_name"]).write_text("".join(json.dumps(pair) + "\n" for pair in 8 * PAIRS[:1]))
    assert main("dpo", flags(pairs, max_steps=8, learning_rate=0.01)) == 0
    training, log = load_training(tmp_path / "tuned")
    assert (training.objective, training.method, training.rows) == ("dpo", "mofo", 8)
    assert log[0].margin == 0
    assert log[-1].margin > 0.05
    assert training.tokens > 0
    card = (tmp_path / "tuned" / "README.md").read_text()
    assert "- dpo" in card
    assert "| beta | 0.1 |" in card


def test_what_is_forgotten_is_measured_along_the_way(pairs, tmp_path):
    train("dpo", flags(pairs, probes="divergence,text", probe_steps=2, max_steps=3))
    watched = load_forgetting(tmp_path / "tuned")
    assert [mark.at for mark in watched.marks] == [2, 3]
    assert {metric.source for metric in watched.metrics} == {"divergence", "text"}
    arguments = load_training(tmp_path / "tuned")[0].arguments
    assert (arguments["probes"], arguments["probe_steps"]) == ("divergence,text", 2)
    assert "budget" not in arguments
    assert watched.marks[-1].point.forgotten["divergence"]["kl"] > 0


@pytest.mark.parametrize(
    ("changed", "message"), [({"probes": "taste"}, "taste"), ({"probes": "text", "probe_steps": 0}, "every is 0")]
)
def test_probes_that_cannot_be_measured_are_refused(pairs, changed, message):
    with pytest.raises(UserError, match=message):
        parse(OBJECTIVE, flags(pairs, **changed))

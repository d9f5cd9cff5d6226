"""`mofo grpo`: prompts of every form, rewards that can be checked, and a training of a tiny model that is resumed."""

import json
import shutil
from pathlib import Path

import pytest
import reasoning_gym
from datasets import load_dataset
from safetensors.torch import load_file

from mofo.errors import UserError
from mofo.trainers.trl.arguments import parse
from mofo.trainers.trl.command import main
from mofo.trainers.trl.grpo import OBJECTIVE, SOLVED
from mofo.trainers.trl.rewards import solved
from mofo.trainers.trl.training import train
from mofo.training import load_training
from reference.sft import equal, flags, weights

USER = {"role": "user", "content": "2+2"}


@pytest.fixture
def asking(settings):
    """Settings of a short training on generated problems: four answers of eight tokens to each."""
    changes = {"dataset_name": "reasoning-gym:chain_sum", "num_generations": 4, "max_completion_length": 8}
    return {**settings, **changes, "logging_steps": 1, "max_steps": 2}


@pytest.fixture
def read(asking, tmp_path):
    """What trl reads of rows."""

    def read(*rows, **more):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (given,) = parse(OBJECTIVE, flags(asking, dataset_name=file, **more)).mixture.datasets
        return list(load_dataset(given.path, data_files=given.data_files, split="train"))

    return read


@pytest.mark.parametrize(
    ("row", "more", "expected"),
    [
        ({"question": "2+2", "answer": "4"}, {}, {"prompt": [USER], "answer": "4"}),
        ({"prompt": "2+2", "answer": 4}, {}, {"prompt": "2+2", "answer": 4}),
        (
            {"prompt": [USER], "answer": "4", "level": {"a": [1]}},
            {},
            {"prompt": [USER], "answer": "4", "level": {"a": [1]}},
        ),
        ({"problem": "2+2", "solution": "4"}, {}, {"prompt": [USER], "answer": "4", "problem": "2+2", "solution": "4"}),
        (
            {"q": "2+2", "a": "4"},
            {"columns": "question=q,answer=a"},
            {"prompt": [USER], "answer": "4", "q": "2+2", "a": "4"},
        ),
        ({"prompt": "hi"}, {"reward_funcs": "think_format_reward"}, {"prompt": "hi"}),
    ],
)
def test_forms_become_trls_with_what_rewards_read(read, row, more, expected):
    assert read(row, **more) == [expected]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "hi"}, r"row 1 has no answer, with which the reward `solved` compares"),
        ({"text": "hi"}, r"has the fields \['text'\]; expected prompt, question, problem and solution"),
        ({"prompt": [USER, {"role": "assistant", "content": "4"}], "answer": 4}, "the last message of prompt is the"),
        ({"question": "", "answer": "4"}, "row 1 has no question"),
    ],
)
def test_rows_that_cannot_be_used_are_named(read, row, message):
    with pytest.raises(UserError, match=message):
        read(row)


def test_the_reward_of_those_who_name_none_is_solved(asking):
    assert parse(OBJECTIVE, flags(asking)).script.reward_funcs == [SOLVED]
    named = parse(OBJECTIVE, flags(asking, reward_funcs="solved")).script.reward_funcs
    assert named == [SOLVED]
    assert parse(OBJECTIVE, flags(asking, reward_funcs="my.reward")).script.reward_funcs == ["my.reward"]


@pytest.mark.parametrize(
    ("text", "answer", "reward"),
    [
        ("First 3.\n#### 1,234", "so it is\n#### 1234", 1),
        ("so 12 then", "12", 1),
        ("12 and then 13", "12", 0),
        ("<answer>blue</answer> or not", "Blue.", 1),
        (r"so \boxed{7}, as 8 is too much", "7", 1),
        ("blue", "blue", 1),
        ("it is blue", "blue", 0),
        ("no number", "12", 0),
        ("minus -3.5", "-3.5", 1),
    ],
)
def test_answers_are_found_where_they_stand(text, answer, reward):
    assert solved([text], answer=[answer]) == [reward]
    assert solved([[{"role": "assistant", "content": text}]], answer=[answer]) == [reward]


def test_generated_problems_are_scored_by_their_library():
    entries = reasoning_gym.create_dataset("chain_sum", seed=1, size=3)
    texts = [*(f"it is {entries[n]['answer']}" for n in range(2)), "7777777"]
    assert solved(texts, entry=list(entries), answer=["?"] * 3) == [1, 1, 0]


def test_batches_that_hold_no_whole_group_are_refused(asking):
    with pytest.raises(UserError, match="divisible"):
        parse(OBJECTIVE, flags(asking, per_device_train_batch_size=3))


def test_a_reward_that_does_not_exist_is_named(asking):
    with pytest.raises(UserError, match="Could not load reward function 'nonsense'"):
        train("grpo", flags(asking, reward_funcs="nonsense"))


@pytest.mark.parametrize("method", ["mofo", "adamw+l2"])
def test_a_resumed_training_ends_the_same(asking, tmp_path, method):
    if method != "mofo":
        del asking["fraction"]
    whole, again = tmp_path / "whole", tmp_path / "again"
    more = {"method": method, "max_steps": 3, "beta": 0.1, "reward_funcs": "reference.rewards.digits"}
    train("grpo", flags(asking, **more, output_dir=whole, save_steps=2))
    checkpoint = again / "checkpoint-2"
    shutil.copytree(whole / "checkpoint-2", checkpoint)
    train("grpo", flags(asking, **more, output_dir=again, resume_from_checkpoint=checkpoint))
    assert equal(weights(whole), weights(again))
    training, log = load_training(whole)
    assert (training.objective, training.method) == ("grpo", method)
    assert training.tokens > 0
    assert {entry.reward is None for entry in log} == {entry.kl is None for entry in log} == {False}


def test_base_writes_a_text_for_each_place_of_the_steps_that_answers_take(asking, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"{n}+1", "answer": str(n + 1)}) + "\n" for n in range(6)))
    del asking["fraction"]
    settings = {"method": "adamw+self-distill", "method_settings": "self-distill.tokens=8"}
    train("grpo", flags(asking, **settings, dataset_name=rows, max_steps=-1, num_train_epochs=2))
    folder = Path(asking["output_dir"])
    (bank,) = (folder / "mofo").glob("*/self-distill-*.safetensors")
    assert len(load_file(bank)["ids"]) == 2 * load_training(folder)[0].steps > 4


def test_the_command_trains_and_its_record_says_so(asking, capfd):
    assert main("grpo", flags(asking)) == 0
    folder = Path(asking["output_dir"])
    card = (folder / "README.md").read_text()
    assert "- grpo" in card
    assert "| num_generations | 4 |" in card
    assert "Trained with MoFO" in capfd.readouterr().out

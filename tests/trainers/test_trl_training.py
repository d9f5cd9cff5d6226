"""What one process of `mofo sft` trains."""

import dataclasses
import importlib.util
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTTrainer

from mofo import MoFO
from mofo.errors import UserError
from mofo.trainers.trl import sft
from mofo.trainers.trl.training import train
from reference.sft import PROMPTS, equal, flags, weights, write_rows


def test_one_step_moves_k_entries_of_each_tensor_and_saves_a_model(settings, tiny_model):
    train("sft", flags(settings, max_steps=1))
    base, tuned = weights(tiny_model), weights(settings["output_dir"])
    moved = {name: int((tuned[name] != base[name]).sum()) for name in base}
    assert moved == {name: max(1, math.floor(0.1 * tensor.numel())) for name, tensor in base.items()}
    model = AutoModelForCausalLM.from_pretrained(settings["output_dir"])
    assert equal({name: p for name, p in model.state_dict().items() if name in tuned}, tuned)
    assert AutoTokenizer.from_pretrained(settings["output_dir"]).chat_template


def test_optimizer_is_mofo_with_the_settings_given(settings, trainers, capsys):
    more = {"weight_decay": 0.05, "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6}
    train("sft", flags(settings, **more, score="momentum_over_rms", decay="all", state_dtype="int8"))
    optimizer = trainers[0].optimizer.optimizer
    assert type(optimizer) is MoFO
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    for group in optimizer.param_groups:
        assert group["lr"] == 0.01
        assert group["betas"] == (0.8, 0.95)
        assert group["eps"] == 1e-6
        assert (group["fraction"], group["score"], group["decay"]) == (0.1, "momentum_over_rms", "all")
        assert group["state_dtype"] == "int8"
    assert (
        "Trained with MoFO: fraction 0.1, score momentum_over_rms, decay all, state_dtype int8."
        in capsys.readouterr().out
    )


def test_settings_of_mofo_without_a_flag_reach_the_optimizer(settings, trainers):
    train("sft", flags(settings, max_steps=1, method_settings="mofo.rounding=stochastic"))
    assert trainers[0].optimizer.param_groups[0]["rounding"] == "stochastic"


def test_logs_have_what_mofo_moves(settings, trainers):
    train("sft", flags(settings, logging_steps=1))
    logs = [entry for entry in trainers[0].state.log_history if "loss" in entry]
    assert [round(entry["mofo/moved"], 2) for entry in logs] == [0.1, 0.1, 0.1]
    assert {"mofo/selected", "mofo/overlap", "mofo/distance", "mean_token_accuracy"} <= set(logs[2])


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_machine_without_a_gpu_trains_on_the_cpu_in_float32(settings, trainers):
    del settings["use_cpu"], settings["bf16"]
    train("sft", flags(settings, max_steps=1))
    assert trainers[0].model.device.type == "cpu"
    assert {p.dtype for p in trainers[0].model.parameters()} == {torch.float32}
    assert trainers[0].accelerator.mixed_precision == "no"


def test_trainers_have_trls_optimizer_again_afterwards(settings, monkeypatch):
    construct = SFTTrainer.__init__
    train("sft", flags(settings, max_steps=1))
    assert SFTTrainer.__init__ is construct

    def fail(*_):
        raise OSError("the disk is full\nand more")

    monkeypatch.setattr(sft, "OBJECTIVE", dataclasses.replace(sft.OBJECTIVE, script=fail))
    with pytest.raises(UserError, match=r"failed: the disk is full$"):
        train("sft", flags(settings))
    assert SFTTrainer.__init__ is construct


def test_yaml_file_trains_as_the_flags_do(settings, tmp_path):
    train("sft", flags(settings))
    settings["output_dir"], from_flags = str(tmp_path / "from-yaml"), weights(settings["output_dir"])
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    train("sft", ["--config", str(config)])
    assert equal(weights(settings["output_dir"]), from_flags)


def test_resumed_run_equals_an_uninterrupted_one(settings, tmp_path):
    settings |= {"max_steps": 4, "save_steps": 2, "lr_scheduler_type": "cosine", "weight_decay": 0.01}
    train("sft", flags(settings))
    again = tmp_path / "again"
    shutil.copytree(Path(settings["output_dir"]) / "checkpoint-2", again / "checkpoint-2")
    train("sft", flags(settings, output_dir=again, resume_from_checkpoint=again / "checkpoint-2"))
    assert equal(weights(again), weights(settings["output_dir"]))


QUESTIONS = [{"question": row["prompt"], "answer": row["completion"]} for row in PROMPTS]
CHATS = [
    {"messages": [{"role": "user", "content": q["question"]}, {"role": "assistant", "content": q["answer"]}]}
    for q in QUESTIONS
]
TEXTS = [{"text": row["prompt"] + row["completion"]} for row in PROMPTS]
PLAIN, CHAT = "3 plus zero is 003</s>", "<|user|>3 plus zero is </s><|assistant|>003</s>"


@pytest.mark.parametrize(
    ("name", "rows", "learned"),
    [
        ("rows.jsonl", PROMPTS, PLAIN),
        ("rows.json", TEXTS, PLAIN),
        ("rows.parquet", CHATS, CHAT),
        ("rows.csv", PROMPTS, PLAIN),
        ("rows.csv", QUESTIONS, CHAT),
        ("rows.jsonl", QUESTIONS, CHAT),
        ("rows.parquet", QUESTIONS, CHAT),
    ],
)
def test_files_of_every_kind_and_form_are_learned(settings, trainers, tmp_path, name, rows, learned):
    write_rows(tmp_path / name, rows)
    train("sft", flags(settings, dataset_name=tmp_path / name, max_steps=1))
    tokenizer = trainers[0].processing_class
    assert tokenizer.decode(trainers[0].train_dataset[3]["input_ids"]) == learned


def test_part_of_a_file_can_be_held_out(settings, trainers):
    train("sft", flags(settings, eval_strategy="steps", eval_steps=1, test_split_size=0.25, max_steps=1))
    assert (len(trainers[0].train_dataset), len(trainers[0].eval_dataset)) == (18, 6)


@pytest.mark.parametrize("version", [None, "1"])
def test_fsdp1_is_refused_before_anything_is_loaded(settings, monkeypatch, version):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    if version:
        monkeypatch.setenv("FSDP_VERSION", version)
    with pytest.raises(UserError, match=r"flatten the parameters.* FSDP2"):
        train("sft", flags(settings))
    assert not Path(settings["output_dir"]).exists()


def test_extras_that_do_not_go_with_fsdp2_are_refused_before_anything_is_loaded(settings, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(UserError, match="l2 does not go with sharded parameters"):
        train("sft", flags(settings, method="mofo+l2"))
    assert not Path(settings["output_dir"]).exists()


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_deepspeed_is_refused_before_anything_is_loaded(settings, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with pytest.raises(UserError, match=r"flatten the parameters.* FSDP2"):
        train("sft", flags(settings))
    assert not Path(settings["output_dir"]).exists()


TRAIN_AND_KEEP_EVERY_RANK = """
import sys
import torch
from trl import SFTTrainer
from mofo.trainers.trl import training as trl_training

train = SFTTrainer.train
def train_and_keep(trainer, *args, **kwargs):
    train(trainer, *args, **kwargs)
    model = trainer.accelerator.unwrap_model(trainer.model)
    torch.save(model.state_dict(), f"{trainer.args.output_dir}/rank{trainer.args.process_index}.pt")

SFTTrainer.train = train_and_keep
trl_training.train("sft", sys.argv[1:])
"""


@pytest.mark.processes
def test_processes_stay_equal_under_accelerate_launch(settings, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TRAIN_AND_KEEP_EVERY_RANK)
    accelerate = [sys.executable, "-m", "accelerate.commands.launch"]
    launch = ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    done = subprocess.run([*accelerate, *launch, str(script), *flags(settings)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(Path(settings["output_dir"]) / f"rank{rank}.pt") for rank in (0, 1)]
    assert equal(*ranks)
    assert done.stdout.count("Trained with MoFO") == 1
    base = weights(settings["model_name_or_path"])
    moved = {name: float((ranks[0][name] != base[name]).float().mean()) for name in base}
    assert all(0 < share <= 3 * 0.1 + 0.03 for share in moved.values())  # three steps; a norm has 32 entries


def test_training_that_diverges_is_said_to(settings, capsys):
    train("sft", flags(settings, learning_rate=1e30, logging_steps=1))
    assert "the training diverged: at step 3 its loss was not finite; lower --learning_rate" in capsys.readouterr().err

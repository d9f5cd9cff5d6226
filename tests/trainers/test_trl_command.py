import csv
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTTrainer
from trl.scripts.sft import make_parser

from mofo import MoFO
from mofo.errors import UserError
from mofo.trainers import trl_command as sft


@pytest.fixture(autouse=True)
def _caches(monkeypatch, tmp_path):
    monkeypatch.setenv("MOFO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))  # for processes that a test starts
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.fixture
def settings(tiny_model, tiny_data, tmp_path):
    """Settings of a short training, by the names that flags and YAML files share."""
    return {
        "model_name_or_path": tiny_model,
        "dataset_name": tiny_data,
        "output_dir": str(tmp_path / "tuned"),
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "fraction": 0.1,
    }


@pytest.fixture
def trainers(monkeypatch):
    """The trainers that trained."""
    seen = []
    train = SFTTrainer.train

    def seen_train(trainer, *args, **kwargs):
        seen.append(trainer)
        return train(trainer, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "train", seen_train)
    return seen


@pytest.fixture
def launched(monkeypatch):
    """What would have been launched."""
    seen = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", seen.append)
    return seen


def flags(settings, **more):
    return [word for name, value in {**settings, **more}.items() for word in (f"--{name}", str(value))]


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_one_step_moves_k_entries_of_each_tensor_and_saves_a_model(settings, tiny_model):
    sft.train(flags(settings, max_steps=1))
    base, tuned = weights(tiny_model), weights(settings["output_dir"])
    moved = {name: int((tuned[name] != base[name]).sum()) for name in base}
    assert moved == {name: max(1, math.floor(0.1 * tensor.numel())) for name, tensor in base.items()}
    model = AutoModelForCausalLM.from_pretrained(settings["output_dir"])
    assert equal({name: p for name, p in model.state_dict().items() if name in tuned}, tuned)
    assert AutoTokenizer.from_pretrained(settings["output_dir"]).chat_template


def test_the_optimizer_is_mofo_with_the_settings_given(settings, trainers, capsys):
    more = {"weight_decay": 0.05, "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6}
    sft.train(flags(settings, **more, score="momentum_over_rms", decay="all", state_dtype="int8"))
    optimizer = trainers[0].optimizer.optimizer
    assert type(optimizer) is MoFO
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    for group in optimizer.param_groups:
        assert group["lr"] == 0.01
        assert group["betas"] == (0.8, 0.95)
        assert group["eps"] == 1e-6
        assert (group["fraction"], group["score"], group["decay"]) == (0.1, "momentum_over_rms", "all")
        assert group["state_dtype"] == "int8"
    assert "Trained with MoFO: fraction 0.1, score momentum_over_rms, decay all, state int8." in capsys.readouterr().out


def test_the_logs_tell_what_mofo_moves(settings, trainers):
    sft.train(flags(settings, logging_steps=1))
    logs = [entry for entry in trainers[0].state.log_history if "loss" in entry]
    assert [round(entry["mofo/moved"], 2) for entry in logs] == [0.1, 0.1, 0.1]
    assert {"mofo/selected", "mofo/overlap", "mofo/distance", "mean_token_accuracy"} <= set(logs[2])


def test_trl_trains_with_adamw_afterwards_as_before(settings, tiny_model):
    construct = SFTTrainer.__init__
    sft.train(flags(settings, max_steps=1))
    assert SFTTrainer.__init__ is construct


def test_a_yaml_file_trains_as_the_flags_do(settings, tmp_path):
    sft.train(flags(settings))
    settings["output_dir"], from_flags = str(tmp_path / "from-yaml"), weights(settings["output_dir"])
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    sft.train(["--config", str(config)])
    assert equal(weights(settings["output_dir"]), from_flags)


@pytest.mark.parametrize("from_yaml", [False, True])
def test_flags_mean_what_they_mean_to_trl(settings, tmp_path, from_yaml):
    del settings["fraction"]
    settings |= {"dataset_name": "trl-lib/Capybara", "packing": True, "num_train_epochs": 2.5, "lora_r": 8}
    argv = flags(settings)
    if from_yaml:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
        argv = ["--config", str(tmp_path / "config.yaml"), "--max_steps", "7"]
    ours, theirs = sft._parse(argv), make_parser().parse_args_and_config(argv)
    assert ours.script == theirs[0]
    assert ours.training.to_dict() == theirs[1].to_dict()
    assert ours.model == theirs[2]
    assert ours.mixture == theirs[3]


def test_a_resumed_run_equals_an_uninterrupted_one(settings, tmp_path):
    settings |= {"max_steps": 4, "save_steps": 2, "lr_scheduler_type": "cosine", "weight_decay": 0.01}
    sft.train(flags(settings))
    again = tmp_path / "again"
    shutil.copytree(Path(settings["output_dir"]) / "checkpoint-2", again / "checkpoint-2")
    sft.train(flags(settings, output_dir=again, resume_from_checkpoint=again / "checkpoint-2"))
    assert equal(weights(again), weights(settings["output_dir"]))


def write_rows(file, rows):
    if file.suffix == ".csv":
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


PROMPTS = [{"prompt": f"{n} plus zero is ", "completion": f"00{n}"} for n in range(8)]
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
def test_files_of_every_kind_and_form(settings, trainers, tmp_path, name, rows, learned):
    write_rows(tmp_path / name, rows)
    sft.train(flags(settings, dataset_name=tmp_path / name, max_steps=1))
    tokenizer = trainers[0].processing_class
    assert tokenizer.decode(trainers[0].train_dataset[3]["input_ids"]) == learned


def test_part_of_a_file_can_be_held_out(settings, trainers):
    sft.train(flags(settings, eval_strategy="steps", eval_steps=1, test_split_size=0.25, max_steps=1))
    assert (len(trainers[0].train_dataset), len(trainers[0].eval_dataset)) == (18, 6)


def test_the_names_of_the_workbench_are_models(settings, monkeypatch):
    tiny_model = settings["model_name_or_path"]
    monkeypatch.setattr(sft, "resolve_model", {"smollm2-135m": tiny_model}.__getitem__)
    assert sft._parse(flags(settings, model_name_or_path="smollm2-135m")).model.model_name_or_path == tiny_model


def test_launches_as_trl_does(settings, launched, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"main_process_port": 1234, "weight_decay": 0.1}))
    argv = ["--num_processes", "2", *flags(settings), "--config", str(config), "--accelerate_config", "multi_gpu"]
    assert sft.main(argv) == 0
    (launch,) = launched
    assert (launch.module, launch.training_script) == (True, "mofo.trainers.trl_command")
    assert launch.training_script_args == [*flags(settings), "--config", str(config)]
    assert (launch.num_processes, launch.main_process_port) == (2, 1234)
    assert Path(launch.config_file).name == "multi_gpu.yaml"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"fraction": 0}, "fraction"),
        ({"fraction": 1.5}, "fraction"),
        ({"fraction": "nan"}, "fraction"),
        ({"fraction": "few"}, "--fraction: invalid float value: 'few'"),
        ({"score": "loudness"}, "--score: invalid choice: 'loudness'"),
        ({"decay": "none"}, "--decay: invalid choice: 'none'"),
        ({"state_dtype": "int4"}, "--state_dtype: invalid choice: 'int4'"),
        ({"adam_beta1": 1.0}, "beta"),
        ({"learning_rate": -1}, "learning rate|lr"),
        ({"weight_decay": -1}, "weight_decay"),
        ({"optim": "sgd"}, "--optim: mofo sft trains with MoFO, not with sgd"),
        ({"optim": "adamw_torch_fused"}, "trains with MoFO, not with adamw_torch_fused"),
        ({"optim_args": "a=1"}, "--optim_args"),
        ({"leraning_rate": 1}, "has the flag --leraning_rate"),
        ({"model_name_or_path": "./missing"}, "no model at ./missing"),
        ({"dataset_name": "missing.jsonl"}, "missing.jsonl does not exist"),
        ({"eval_strategy": "epoch"}, "--test_split_size"),
        ({"config": "missing.yaml"}, "missing.yaml"),
        ({"accelerate_config": "missing"}, "Accelerate config missing"),
    ],
)
def test_bad_flags_are_told_before_anything_is_launched(settings, launched, changed, said):
    with pytest.raises(UserError, match=said):
        sft.main(flags(settings, **changed))
    assert not launched


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"optim": "adamw_torch_fused"}, "trains with MoFO, not with adamw_torch_fused"),
        ({"fraction": 0}, "fraction"),
        ({"fraction": [0.1]}, "fraction"),
        ({"score": "loudness"}, "loudness"),
        ({"leraning_rate": 1}, "has the flag --leraning_rate"),
    ],
)
def test_bad_yaml_is_told_before_anything_is_launched(settings, launched, tmp_path, changed, said):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**settings, **changed}))
    with pytest.raises(UserError, match=said):
        sft.main(["--config", str(tmp_path / "config.yaml")])
    assert not launched


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", ""])
def test_a_config_that_is_no_mapping_is_told(tmp_path, launched, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError):
        sft.main(["--config", str(tmp_path / "config.yaml")])
    with pytest.raises(UserError, match="--config needs"):
        sft.main(["--config"])


def test_model_and_data_must_be_given(settings, launched):
    with pytest.raises(UserError, match="no model: give --model_name_or_path"):
        sft.main(["--use_cpu", "--dataset_name", settings["dataset_name"]])
    with pytest.raises(UserError, match="no data: give --dataset_name"):
        sft.main(["--use_cpu", "--model_name_or_path", settings["model_name_or_path"]])


def test_a_bad_row_is_told_with_its_number(settings, launched, tmp_path):
    write_rows(tmp_path / "rows.jsonl", [PROMPTS[0], {"prompt": "1 plus zero is "}])
    with pytest.raises(UserError, match="row 2 has no completion"):
        sft.main(flags(settings, dataset_name=tmp_path / "rows.jsonl"))


@pytest.mark.parametrize("version", [None, "1"])
def test_fsdp1_is_refused_before_anything_is_loaded(settings, monkeypatch, version):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    if version:
        monkeypatch.setenv("FSDP_VERSION", version)
    with pytest.raises(UserError, match=r"flatten the parameters.* FSDP2"):
        sft.train(flags(settings))
    assert not Path(settings["output_dir"]).exists()


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_deepspeed_is_refused_before_anything_is_loaded(settings, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with pytest.raises(UserError, match=r"flatten the parameters.* FSDP2"):
        sft.train(flags(settings))
    assert not Path(settings["output_dir"]).exists()


def test_help_shows_trls_flags_and_ours_apart(capsys):
    with pytest.raises(SystemExit) as stop:
        sft.main(["--help"])
    assert stop.value.code == 0
    trls, ours = capsys.readouterr().out.split("\nMoFO:\n")
    assert "--learning_rate" in trls
    assert "--packing" in trls
    assert "--optim " not in trls
    assert all(flag in ours for flag in ("--fraction", "--score", "--decay", "--state_dtype"))


@pytest.fixture
def one_thread(monkeypatch):
    """One thread here and in processes that are started: sums over several threads round differently."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_launched_run_equals_one_in_this_process(settings, tmp_path, capfd):
    sft.train(flags(settings))
    assert sft.main(flags(settings, output_dir=tmp_path / "launched", num_processes=1)) == 0
    assert equal(weights(tmp_path / "launched"), weights(settings["output_dir"]))
    assert capfd.readouterr().out.count("Trained with MoFO: fraction 0.1") == 2


TRAIN_AND_KEEP_EVERY_RANK = """
import sys
import torch
from trl import SFTTrainer
from mofo.trainers import trl_command as sft

train = SFTTrainer.train
def train_and_keep(trainer, *args, **kwargs):
    train(trainer, *args, **kwargs)
    model = trainer.accelerator.unwrap_model(trainer.model)
    torch.save(model.state_dict(), f"{trainer.args.output_dir}/rank{trainer.args.process_index}.pt")

SFTTrainer.train = train_and_keep
sft.train(sys.argv[1:])
"""


@pytest.mark.slow
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


@pytest.mark.slow
def test_two_processes_train_on_other_rows_than_one(settings, tmp_path, capfd):
    several = flags(settings, multi_gpu="", num_processes=2, main_process_port=0)
    assert sft.main([word for word in several if word]) == 0
    assert "Trained with MoFO" in capfd.readouterr().out
    sft.train(flags(settings, output_dir=tmp_path / "one"))
    assert not equal(weights(settings["output_dir"]), weights(tmp_path / "one"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"fraction": 0}, "fraction"),
        ({"dataset_name": "nobody/nothing"}, "nobody/nothing"),
        ({"model_name_or_path": "nobody/nothing"}, "nobody/nothing"),
        ({"leraning_rate": 1}, "Neither `trl sft` nor MoFO has the flag --leraning_rate"),
    ],
)
def test_the_launched_script_says_one_sentence_and_exits_with_2(settings, changed, said):
    command = [sys.executable, "-m", "mofo.trainers.trl_command", *flags(settings, **changed)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("mofo sft: ")
    assert said in last
    assert "Traceback" not in done.stderr
    assert done.returncode == 2

"""`mofo sft` as a command: what it launches, what it refuses, how it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from mofo.errors import UserError
from mofo.trainers.trl import command as trl_command
from mofo.trainers.trl.command import how_to_resume, main
from mofo.trainers.trl.training import train
from reference.sft import equal, flags, weights


@pytest.fixture
def launched(monkeypatch):
    """What would have been launched."""
    seen = []
    monkeypatch.setattr(trl_command, "launch_command", seen.append)
    return seen


def test_launch_is_as_trls(settings, launched, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"main_process_port": 1234, "weight_decay": 0.1}))
    argv = ["--num_processes", "2", *flags(settings), "--config", str(config), "--accelerate_config", "multi_gpu"]
    assert main("sft", argv) == 0
    (launch,) = launched
    assert (launch.module, launch.training_script) == (True, "mofo.trainers.trl.script")
    assert launch.training_script_args == ["sft", *flags(settings), "--config", str(config)]
    assert (launch.num_processes, launch.main_process_port) == (2, 1234)
    assert Path(launch.config_file).name == "multi_gpu.yaml"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fraction": 0}, "fraction"),
        ({"fraction": 1.5}, "fraction"),
        ({"fraction": "nan"}, "fraction"),
        ({"fraction": "few"}, "--fraction: invalid float value: 'few'"),
        ({"score": "loudness"}, "--score: invalid choice: 'loudness'"),
        ({"decay": "none"}, "--decay: invalid choice: 'none'"),
        ({"state_dtype": "int4"}, "--state_dtype.*: invalid choice: 'int4'"),
        ({"state": "int8"}, r"has the flag --state \(did you mean --state_dtype\?\)"),
        ({"adam_beta1": 1.0}, "beta"),
        ({"learning_rate": -1}, "learning rate|lr"),
        ({"weight_decay": -1}, "weight_decay"),
        ({"optim": "sgd"}, "--optim: --method chooses the optimizer, not sgd"),
        ({"optim": "adamw_torch_fused"}, "--method chooses the optimizer, not adamw_torch_fused"),
        ({"optim_args": "a=1"}, "--optim_args"),
        ({"leraning_rate": 1}, r"has the flag --leraning_rate \(did you mean --learning_rate\?\)"),
        ({"fract": 0.1}, r"has the flag --fract \(did you mean --fraction\?\)"),
        ({"model": "tiny"}, r"has the flag --model \(did you mean --model_name_or_path\?\)"),
        ({"data": "rows.jsonl"}, r"has the flag --data \(did you mean --dataset_name\?\)"),
        ({"output": "tuned"}, r"has the flag --output \(did you mean --output_dir\?\)"),
        ({"model_name_or_path": "./missing"}, "no model at ./missing"),
        ({"dataset_name": "missing.jsonl"}, "missing.jsonl does not exist"),
        ({"eval_strategy": "epoch"}, "--test_split_size"),
        ({"config": "missing.yaml"}, "missing.yaml"),
        ({"accelerate_config": "missing"}, "Accelerate config missing"),
        ({"num_processes": "two"}, r"--num_processes.*: invalid int value: 'two' \(`accelerate launch --help`"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_launched(settings, launched, changed, message):
    with pytest.raises(UserError, match=message):
        main("sft", flags(settings, **changed))
    assert not launched


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"optim": "adamw_torch_fused"}, "--method chooses the optimizer, not adamw_torch_fused"),
        ({"fraction": 0}, "fraction"),
        ({"fraction": [0.1]}, "fraction"),
        ({"score": "loudness"}, "loudness"),
        ({"leraning_rate": 1}, "has the flag --leraning_rate"),
    ],
)
def test_bad_yaml_is_refused_before_anything_is_launched(settings, launched, tmp_path, changed, message):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**settings, **changed}))
    with pytest.raises(UserError, match=message):
        main("sft", ["--config", str(tmp_path / "config.yaml")])
    assert not launched


def write_checkpoint(folder, step, written):
    file = folder / f"checkpoint-{step}" / "trainer_state.json"
    file.parent.mkdir()
    file.write_text("{}")
    os.utime(file, (written, written))


def test_how_to_resume_names_the_last_checkpoint_of_this_training(tmp_path):
    assert "no checkpoint yet" in how_to_resume(tmp_path / "none", since=0)
    write_checkpoint(tmp_path, 8, written=1000)
    assert "no checkpoint yet" in how_to_resume(tmp_path, since=2000)
    write_checkpoint(tmp_path, 4, written=3000)
    (tmp_path / "checkpoint-6").mkdir()
    assert f"--resume_from_checkpoint {tmp_path / 'checkpoint-4'} " in how_to_resume(tmp_path, since=2000)


def test_interrupted_training_says_how_to_resume(settings, monkeypatch):
    def interrupt(_):
        folder = Path(settings["output_dir"])
        folder.mkdir()
        write_checkpoint(folder, 2, written=time.time() + 1)
        raise KeyboardInterrupt

    monkeypatch.setattr(trl_command, "launch_command", interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"--resume_from_checkpoint .*checkpoint-2 to the same command"):
        main("sft", flags(settings))


@pytest.fixture
def one_thread(monkeypatch):
    """One thread here and in processes that are started: sums over several threads round differently."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.processes
@pytest.mark.usefixtures("one_thread")
def test_launched_run_equals_one_in_this_process(settings, tmp_path, capfd):
    train("sft", flags(settings))
    assert main("sft", flags(settings, output_dir=tmp_path / "launched", num_processes=1)) == 0
    assert equal(weights(tmp_path / "launched"), weights(settings["output_dir"]))
    assert capfd.readouterr().out.count("Trained with MoFO: fraction 0.1") == 2


@pytest.mark.processes
def test_two_processes_train_on_other_rows_than_one(settings, tmp_path, capfd):
    several = flags(settings, multi_gpu="", num_processes=2, main_process_port=0)
    assert main("sft", [word for word in several if word]) == 0
    assert "Trained with MoFO" in capfd.readouterr().out
    train("sft", flags(settings, output_dir=tmp_path / "one"))
    assert not equal(weights(settings["output_dir"]), weights(tmp_path / "one"))


@pytest.mark.processes
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fraction": 0}, "fraction"),
        ({"dataset_name": "nobody/nothing"}, "nobody/nothing"),
        ({"model_name_or_path": "nobody/nothing"}, "nobody/nothing"),
        ({"leraning_rate": 1}, "nor MoFO has the flag --leraning_rate"),
    ],
)
def test_launched_script_says_one_sentence_and_exits_with_2(settings, changed, message):
    command = [sys.executable, "-m", "mofo.trainers.trl.script", "sft", *flags(settings, **changed)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("mofo sft: ")
    assert message in last
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


@pytest.mark.processes
@pytest.mark.parametrize("launch", [[], ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]])
def test_ctrl_c_ends_without_a_traceback_and_says_how_to_resume(settings, launch):
    command = [sys.executable, "-m", "mofo.cli", "sft", *launch, *flags(settings, max_steps=10_000, save_steps=2)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    while not (Path(settings["output_dir"]) / "checkpoint-4" / "trainer_state.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes of the command
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in printed.decode()
    said = printed.decode().strip().splitlines()[-1]
    assert said.startswith("mofo sft: interrupted; to resume, add --resume_from_checkpoint ")
    assert (Path(said.split()[-5]) / "trainer_state.json").exists()
    with pytest.raises(ProcessLookupError):  # none was left behind
        os.killpg(process.pid, 0)

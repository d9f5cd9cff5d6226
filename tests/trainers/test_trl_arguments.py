"""The command line of `mofo sft`."""

import pytest
import torch
import yaml
from trl.scripts.sft import make_parser

from mofo.errors import UserError
from mofo.trainers.trl import arguments as trl_arguments
from mofo.trainers.trl.arguments import parse
from mofo.trainers.trl.sft import OBJECTIVE as SFT
from reference.sft import PROMPTS, flags, write_rows


@pytest.mark.parametrize("from_yaml", [False, True])
def test_flags_mean_what_they_mean_to_trl(settings, tmp_path, from_yaml):
    del settings["method"], settings["fraction"]
    settings |= {"dataset_name": "trl-lib/Capybara", "packing": True, "num_train_epochs": 2.5, "lora_r": 8}
    argv = flags(settings)
    if from_yaml:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
        argv = ["--config", str(tmp_path / "config.yaml"), "--max_steps", "7"]
    ours, theirs = parse(SFT, argv), make_parser().parse_args_and_config(argv)
    theirs[1].disable_tqdm = True  # where nobody watches
    theirs[1].logging_nan_inf_filter = False  # else a training that diverged has a loss of 0
    assert ours.script == theirs[0]
    assert ours.training.to_dict() == theirs[1].to_dict()
    assert ours.model == theirs[2]
    assert ours.mixture == theirs[3]


def test_dashes_mean_what_underscores_mean(settings):
    dashed = [word.replace("_", "-") if word.startswith("--") else word for word in flags(settings)]
    assert parse(SFT, dashed).training.to_dict() == parse(SFT, flags(settings)).training.to_dict()


def test_names_of_the_workbench_are_models(settings, monkeypatch):
    tiny_model = settings["model_name_or_path"]
    monkeypatch.setattr(trl_arguments, "resolve_model", {"smollm2-135m": tiny_model}.__getitem__)
    assert parse(SFT, flags(settings, model_name_or_path="smollm2-135m")).model.model_name_or_path == tiny_model


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_explicit_flags_win_over_the_defaults_of_a_machine_without_a_gpu(settings, tmp_path):
    del settings["use_cpu"], settings["bf16"]
    assert (parse(SFT, flags(settings)).training.use_cpu, parse(SFT, flags(settings)).training.bf16) == (True, False)
    assert parse(SFT, flags(settings, bf16=True)).training.bf16
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings | {"bf16": True}))
    assert parse(SFT, ["--config", str(tmp_path / "config.yaml")]).training.bf16


def test_mistakes_are_named_on_a_machine_without_a_gpu():
    with pytest.raises(UserError, match="no model: give --model_name_or_path"):
        parse(SFT, [])


def test_help_shows_mofos_flags_first(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse(SFT, ["--help"])
    ours, trls = capsys.readouterr().out.split("\noptions:\n")
    assert "\nMoFO:\n" in ours
    assert all(flag in ours for flag in ("--fraction", "--score", "--decay", "--state_dtype", "--method"))
    assert "--learning_rate" in trls
    assert "--packing" in trls
    assert "--optim " not in trls
    assert "mofo sft --model_name_or_path smollm2-135m" in trls


def test_model_and_data_must_be_given(settings):
    with pytest.raises(UserError, match="no model: give --model_name_or_path"):
        parse(SFT, ["--use_cpu", "--dataset_name", settings["dataset_name"]])
    with pytest.raises(UserError, match="no data: give --dataset_name"):
        parse(SFT, ["--use_cpu", "--model_name_or_path", settings["model_name_or_path"]])


def test_bad_row_is_named_by_its_number(settings, tmp_path):
    write_rows(tmp_path / "rows.jsonl", [PROMPTS[0], {"prompt": "1 plus zero is "}])
    with pytest.raises(UserError, match="row 2 has no completion"):
        parse(SFT, flags(settings, dataset_name=tmp_path / "rows.jsonl"))


@pytest.mark.parametrize("name", ["file", "file/tuned"])
def test_output_folder_that_is_a_file_is_refused(settings, tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file is a file: choose another --output_dir"):
        parse(SFT, flags(settings, output_dir=tmp_path / name))


def test_output_folder_that_cannot_be_written_is_refused(settings):
    with pytest.raises(UserError, match=r"/proc/tuned cannot be written \(.+\): choose another --output_dir"):
        parse(SFT, flags(settings, output_dir="/proc/tuned"))


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", ""])
def test_config_that_is_no_mapping_is_refused(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError) as refusal:
        parse(SFT, ["--config", str(tmp_path / "config.yaml")])
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="--config needs"):
        parse(SFT, ["--config"])
    with pytest.raises(UserError, match=r"The file none\.yaml cannot be read: No such file or directory\."):
        parse(SFT, ["--config", "none.yaml"])


def test_resuming_needs_a_checkpoint(settings, tmp_path):
    def chosen(checkpoint):
        return parse(SFT, flags(settings, output_dir=tmp_path, resume_from_checkpoint=checkpoint)).training

    for missing in ("true", tmp_path / "checkpoint-9"):
        with pytest.raises(UserError, match="There is no checkpoint in"):
            chosen(missing)
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert chosen("True").resume_from_checkpoint == str(tmp_path / "checkpoint-10")
    assert chosen(tmp_path / "checkpoint-2").resume_from_checkpoint == str(tmp_path / "checkpoint-2")
    assert chosen("false").resume_from_checkpoint is None

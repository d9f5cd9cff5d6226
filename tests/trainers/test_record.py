"""What `mofo sft` leaves beside the weights."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import Trainer

from mofo import __version__
from mofo.errors import UserError
from mofo.models.embedded import HUB_ID
from mofo.trainers.trl import arguments as trl_arguments
from mofo.trainers.trl.training import train
from mofo.training import LogEntry, load_training
from reference.sft import flags


@pytest.fixture
def output(settings):
    return Path(settings["output_dir"])


def test_record_has_base_method_settings_and_how_much_was_trained(settings, output):
    train("sft", flags(settings, weight_decay=0.05, score="gradient", logging_steps=2, adam_beta1=0.8))
    training, log = load_training(output)
    assert (training.base, training.data) == (settings["model_name_or_path"], settings["dataset_name"])
    assert (training.method, training.label) == ("mofo", "MoFO")
    assert training.settings["mofo"] == {
        "learning_rate": 0.01,
        "weight_decay": 0.05,
        "fraction": 0.1,
        "score": "gradient",
        "decay": "selected",
        "rounding": "nearest",
        "state_dtype": "float32",
        "blocks": "tensor",
        "fraction_schedule": "constant",
        "fraction_end": 0.05,
        "momentum_share": 0.5,
        "betas": [0.8, 0.999],
        "eps": 1e-8,
    }
    assert training.arguments["per_device_train_batch_size"] == 4
    assert not [name for name in training.arguments if name.startswith(("optim", "adam"))]
    assert (training.steps, training.planned_steps, training.rows) == (3, 3, 24)
    assert training.epochs == pytest.approx(3 * 4 / 24)
    assert training.tokens == log[-1].tokens
    assert (training.versions["mofo"], training.record) == (__version__, "mofo_log.jsonl")
    assert [entry.step for entry in log] == [2, 3], "the last step is logged too"
    assert all(0 < entry.moved <= entry.selected < 0.2 < 1 < entry.loss for entry in log)
    assert 0 < log[0].distance < log[1].distance


def test_tokens_are_those_of_the_rows_without_padding(settings, output, trainers):
    train("sft", flags(settings, max_steps=6, per_device_train_batch_size=4))
    rows = trainers[0].train_dataset
    assert load_training(output)[0].tokens == sum(len(row["input_ids"]) for row in rows)
    assert load_training(output)[0].epochs == 1


def test_checkpoints_are_recorded_and_resumed_trainings_count_on(settings, output, tmp_path):
    settings |= {"max_steps": 4, "save_steps": 2, "logging_steps": 1}
    train("sft", flags(settings))
    whole, log = load_training(output)
    half, first = load_training(output / "checkpoint-2")
    assert (half.steps, half.planned_steps, len(first)) == (2, 4, 2)
    again = tmp_path / "again"
    shutil.copytree(output / "checkpoint-2", again / "checkpoint-2")
    train("sft", flags(settings, output_dir=again, resume_from_checkpoint=again / "checkpoint-2"))
    resumed, resumed_log = load_training(again)
    changed = {"output_dir": str(again), "resume_from_checkpoint": str(again / "checkpoint-2")}
    changed |= {"logging_dir": resumed.arguments.get("logging_dir")} if "logging_dir" in resumed.arguments else {}
    assert resumed == whole.model_copy(update={"arguments": whole.arguments | changed})
    assert [entry.loss for entry in resumed_log] == [entry.loss for entry in log]


def test_card_names_base_method_and_settings(settings, output, monkeypatch):
    folder = settings["model_name_or_path"]
    monkeypatch.setattr(trl_arguments, "resolve_model", {"smollm2-135m": folder, folder: folder}.__getitem__)
    train("sft", flags(settings, model_name_or_path="smollm2-135m"))
    card = ModelCard.load(output / "README.md")
    assert card.data.base_model == HUB_ID
    assert {"trl", "sft", "mofo"} <= set(card.data.tags)
    assert f"[{HUB_ID}](https://huggingface.co/{HUB_ID}), fine-tuned on `sums.jsonl` with **MoFO**" in card.text
    assert "[arXiv 2407.20999](https://arxiv.org/abs/2407.20999)" in card.text
    assert "| fraction | 0.1 |" in card.text
    assert "| steps | 3 of 3 |" in card.text
    assert 'model="tuned"' in card.text
    assert "Momentum-Filtered Optimizer" in card.text
    assert "None" not in card.text


def test_card_of_an_adapter_and_another_method(settings, output):
    del settings["fraction"]
    more = {"method": "adamw+l2", "method_settings": "l2.strength=0.02", "adam_beta1": 0.8, "use_peft": True}
    train("sft", flags(settings, **more))
    card = ModelCard.load(output / "README.md")
    assert (card.data.library_name, card.data.base_model) == ("peft", None)
    assert f"`{Path(settings['model_name_or_path']).name}`, fine-tuned" in card.text
    assert "a LoRA adapter of that model" in card.text
    assert "| l2.strength | 0.02 |" in card.text
    assert "Momentum-Filtered" not in card.text
    training, _ = load_training(output)
    assert (training.method, training.settings["adamw"]["betas"]) == ("adamw+l2", [0.8, 0.999])


def test_pushed_folder_holds_the_record(settings, output, monkeypatch):
    seen = {}

    def push_to_hub(trainer, **_):
        trainer.create_model_card()
        seen.update({path.name: path.read_text() for path in output.glob("*.[jm][sd]*")})

    monkeypatch.setattr(Trainer, "push_to_hub", push_to_hub)
    monkeypatch.setattr(Trainer, "init_hf_repo", lambda trainer: setattr(trainer, "hub_model_id", "me/tuned"))
    train("sft", flags(settings, push_to_hub=True, hub_model_id="me/tuned", hub_token="secret", save_strategy="no"))
    assert json.loads(seen["mofo.json"])["steps"] == 3
    assert 'model="me/tuned"' in seen["README.md"]
    assert not any("secret" in text for text in seen.values())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("mofo.json", None, "mofo.json cannot be read: No such file"),
        ("mofo.json", "{}", "damaged: base is missing"),
        ("mofo_log.jsonl", None, "mofo_log.jsonl cannot be read: No such file"),
        ("mofo_log.jsonl", '{"loss": 1}\n', "damaged: step is missing"),
    ],
)
def test_damaged_records_are_refused(settings, output, file, content, message):
    train("sft", flags(settings, max_steps=1))
    (output / file).unlink()
    if content is not None:
        (output / file).write_text(content)
    with pytest.raises(UserError, match=message):
        load_training(output)


def test_diverged_losses_are_null():
    assert LogEntry(step=1, loss=float("nan")).loss is None

"""Schedules of the fraction in trainers: what is used at each step, in checkpoints, in methods and in `mofo sft`."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from mofo import MoFO
from mofo.errors import UserError
from mofo.trainers import FractionCallback, use_method
from mofo.trainers.trl.training import train
from reference.sft import equal, flags, weights
from reference.trainers import make_trainer as make


class Fractions(TrainerCallback):
    """Notes the fraction of each step."""

    def __init__(self):
        self.used = {}

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.used[state.global_step + 1] = kwargs["optimizer"].param_groups[0]["fraction"]


def make_trainer(folder, output):
    optimizer = MoFO, {"lr": 0.01, "fraction": 0.3}
    trainer = make(folder, output, max_steps=6, save_strategy="steps", save_steps=3, optimizer=optimizer)
    trainer.seen = Fractions()
    trainer.add_callback(trainer.seen)
    return trainer


def parameters(trainer):
    return [p.detach().clone() for p in trainer.model.parameters()]


@pytest.mark.parametrize("settings", [("linear", {"end": 0.05}), ("cosine", {"end": 0.6}), ("share", {"share": 0.4})])
def test_trainer_follows_the_schedule_and_resumes_to_the_same_bits(tiny_model, tmp_path, settings):
    shape, numbers = settings
    whole = make_trainer(tiny_model, tmp_path)
    whole.add_callback(FractionCallback(shape, **numbers))
    whole.train()
    used = whole.seen.used
    assert used[1] == 0.3
    assert len(set(used.values())) == 6
    if shape == "linear":
        assert list(used.values()) == pytest.approx([0.3, 0.25, 0.2, 0.15, 0.1, 0.05])

    resumed = make_trainer(tiny_model, tmp_path)
    resumed.add_callback(FractionCallback(shape, **numbers))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.seen.used == {step: used[step] for step in (4, 5, 6)}
    assert all(torch.equal(one, two) for one, two in zip(parameters(whole), parameters(resumed), strict=True))


def test_schedule_is_a_setting_of_a_method(tiny_model, tmp_path):
    trainer = make_trainer(tiny_model, tmp_path)
    trainer.optimizer_cls_and_kwargs = None  # the method's takes its place
    method = use_method(trainer, "mofo", {"fraction": 0.2, "fraction_schedule": "cosine", "mofo.fraction_end": 0.1})
    assert method.name == "mofo-cosine"
    assert method.info.label == "MoFO (fraction cosine)"
    trainer.train()
    assert trainer.seen.used[1] == 0.2
    assert trainer.seen.used[6] == pytest.approx(0.1)
    with pytest.raises(UserError, match=r"fraction_schedule is share, which needs score momentum, and score is random"):
        use_method(trainer, {"mofo": {"fraction_schedule": "share", "score": "random"}})


def test_sft_follows_the_schedule_and_resumes_to_the_same_bits(settings, tmp_path, trainers, capsys):
    settings |= {"max_steps": 4, "save_steps": 2, "fraction_schedule": "linear", "fraction_end": 0.4}
    train("sft", flags(settings, logging_steps=1))
    logs = [entry["mofo/selected"] for entry in trainers[0].state.log_history if "loss" in entry]
    assert logs == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.01)
    assert "Trained with MoFO (fraction linear): fraction 0.4" in capsys.readouterr().out
    made = json.loads((Path(settings["output_dir"]) / "mofo.json").read_text())
    assert (made["settings"]["mofo"]["fraction_schedule"], made["settings"]["mofo"]["fraction"]) == ("linear", 0.1)
    again = tmp_path / "again"
    shutil.copytree(Path(settings["output_dir"]) / "checkpoint-2", again / "checkpoint-2")
    train("sft", flags(settings, output_dir=again, resume_from_checkpoint=again / "checkpoint-2"))
    assert equal(weights(again), weights(settings["output_dir"]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fraction_schedule": "linear", "fraction_end": 0}, "mofo.fraction_end is 0.0, expected a number above 0"),
        ({"fraction_schedule": "share", "score": "gradient"}, "leave out --score gradient"),
        ({"method": "lion", "fraction": 0.15, "fraction_schedule": "cosine"}, "--fraction_schedule is a flag of MoFO"),
        ({"fraction_schedule": "square"}, "square"),
    ],
)
def test_sft_refuses_schedules_that_cannot_be(settings, changed, message):
    with pytest.raises(UserError, match=message):
        train("sft", flags(settings | changed))


def test_callback_refuses_bad_arguments():
    for shape, more, message in [
        ("square", {}, "expected one of linear, cosine, share"),
        ("linear", {"end": 0}, "end is 0"),
        ("share", {"share": 1}, "share is 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            FractionCallback(shape, **more)

"""What MoFOCallback reports, against the whole model before and after each step."""

import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from mofo import MoFO
from mofo.trainers import MoFOCallback
from reference.trainers import make_trainer as make

NAMES = {"mofo/selected", "mofo/moved", "mofo/overlap", "mofo/distance"}
OPTIMIZER = (MoFO, {"lr": 0.01, "fraction": 0.1})


class Reporter(TrainerCallback):
    """Stands for a callback that `report_to` names: it comes before those that the user passes."""

    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append((state.global_step, dict(logs)))


class Exact(TrainerCallback):
    """Compares copies of the whole model."""

    def __init__(self):
        self.values = {}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.base = [p.detach().clone() for p in model.parameters()]
        self.moved_before = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.before = [p.detach().clone() for p in model.parameters()]

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        params = [p.detach() for p in model.parameters()]
        moved = torch.cat([(p != old).flatten() for p, old in zip(params, self.before, strict=True)])
        squares = [(p.double() - old.double()).square().sum() for p, old in zip(params, self.base, strict=True)]
        selected = sum(max(1, math.floor(0.1 * p.numel())) for p in params)
        values = {
            "mofo/selected": selected / moved.numel(),
            "mofo/moved": moved.sum().item() / moved.numel(),
            "mofo/distance": math.sqrt(sum(squares)),
        }
        if self.moved_before is not None:
            values["mofo/overlap"] = (moved & self.moved_before).sum().item() / moved.sum().item()
        self.moved_before = moved
        self.values[state.global_step + 1] = values


def make_trainer(tiny_model, sums, output, **more):
    settings = {"optimizer": OPTIMIZER, "lr_scheduler_type": "constant", "logging_steps": 1}
    return make(tiny_model, output, sums, **settings | more)


def train(trainer, **how):
    MoFOCallback.attach(trainer)
    trainer.train(**how)
    return history(trainer)


def history(trainer):
    """What MoFO reported, by step."""
    ours = {e["step"]: {name: e[name] for name in e if name in NAMES} for e in trainer.state.log_history if "loss" in e}
    return {step: values for step, values in ours.items() if values}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("more", [{}, {"gradient_accumulation_steps": 3}, {"logging_steps": 2, "max_steps": 6}])
def test_values_are_exact_where_the_sample_is_the_whole_model(tiny_model, sums, tmp_path, dtype, more):
    exact = Exact()
    got = train(make_trainer(tiny_model, sums, tmp_path, dtype=dtype, callbacks=[exact], **more))
    assert list(got) == ([2, 4, 6] if "logging_steps" in more else [1, 2, 3, 4])
    for step, values in got.items():
        assert values == pytest.approx(exact.values[step], rel=1e-5)
    assert "mofo/overlap" in got[4]


def test_moved_is_less_than_selected_where_bfloat16_rounds_updates_away(tiny_model, sums, tmp_path):
    small = (MoFO, {"lr": 1e-6, "fraction": 0.1})
    got = train(make_trainer(tiny_model, sums, tmp_path, dtype=torch.bfloat16, optimizer=small, learning_rate=1e-6))
    assert all(0 < values["mofo/moved"] < 0.7 * values["mofo/selected"] for values in got.values())


def test_reporting_callbacks_see_the_values_in_one_log_a_step(tiny_model, sums, tmp_path, monkeypatch):
    reporter = Reporter()
    monkeypatch.setattr("transformers.trainer.get_reporting_integration_callbacks", lambda names: [reporter])
    got = train(make_trainer(tiny_model, sums, tmp_path, report_to="tensorboard"))
    reported = {step: {k: v for k, v in logs.items() if k in NAMES} for step, logs in reporter.seen if "loss" in logs}
    assert reported == got
    assert [step for step, logs in reporter.seen if "loss" in logs] == [1, 2, 3, 4]
    assert set(got[1]) == NAMES - {"mofo/overlap"}
    assert all(set(got[step]) == NAMES for step in (2, 3, 4))


def test_tensorboard_gets_the_values(tiny_model, sums, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    got = train(make_trainer(tiny_model, sums, tmp_path, report_to="tensorboard"))
    (file,) = tmp_path.rglob("events.out.*")
    events = EventAccumulator(str(file)).Reload()
    for name in NAMES - {"mofo/overlap"}:
        written = {event.step: event.value for event in events.Scalars(f"train/{name}")}
        assert written == pytest.approx({step: values[name] for step, values in got.items()})


def test_evaluation_logs_are_left_alone(tiny_model, sums, tmp_path):
    trainer = make_trainer(tiny_model, sums, tmp_path, logging_strategy="epoch", eval_strategy="steps", eval_steps=2)
    assert set(train(trainer)[4]) == NAMES
    assert not any(NAMES & set(entry) for entry in trainer.state.log_history if "eval_loss" in entry)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_metrics_of_trl_stay_in_the_same_log(tiny_model, sums, tmp_path, kind):
    settings = {
        "output_dir": str(tmp_path),
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "logging_steps": 1,
        "save_strategy": "no",
    }
    shared = {"model": tiny_model, "processing_class": AutoTokenizer.from_pretrained(tiny_model)}
    if kind == "sft":
        data = Dataset.from_list([{"text": row["answer"]} for row in sums])
        args = SFTConfig(**settings)
        trainer = SFTTrainer(args=args, train_dataset=data, optimizer_cls_and_kwargs=OPTIMIZER, **shared)
    else:
        data = Dataset.from_list([{"prompt": r["question"], "chosen": r["answer"], "rejected": "No."} for r in sums])
        trainer = DPOTrainer(args=DPOConfig(**settings), train_dataset=data, **shared)
        trainer.optimizer_cls_and_kwargs = OPTIMIZER
    train(trainer)
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(steps) == 2
    assert set(steps[1]) >= {*NAMES, "mean_token_accuracy" if kind == "sft" else "rewards/margins"}


def test_resumed_run_reports_the_distance_from_the_first_weights(tiny_model, sums, tmp_path):
    more = {"save_strategy": "steps", "save_steps": 2}
    whole = train(make_trainer(tiny_model, sums, tmp_path, **more))
    resumed = make_trainer(tiny_model, sums, tmp_path, **more)
    with torch.no_grad():
        resumed.model.lm_head.weight.add_(1.0)  # what the model holds before the checkpoint is loaded does not count
    got = train(resumed, resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert got[4] == whole[4]
    del whole[3]["mofo/overlap"]  # the step before was of another session
    assert got[3] == whole[3]


@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: save_file({"base": torch.zeros(3)}, file)])
def test_distance_is_left_out_with_a_warning_without_the_first_weights(tiny_model, sums, tmp_path, spoil):
    more = {"save_strategy": "steps", "save_steps": 2}
    train(make_trainer(tiny_model, sums, tmp_path, **more))
    spoil(tmp_path / "checkpoint-2" / "mofo_base_0.safetensors")
    with pytest.warns(UserWarning, match="distance is left out"):
        got = train(
            make_trainer(tiny_model, sums, tmp_path, **more), resume_from_checkpoint=str(tmp_path / "checkpoint-2")
        )
    assert set(got[4]) == NAMES - {"mofo/distance"}


def test_callback_refuses_other_optimizers(tiny_model, sums, tmp_path):
    with pytest.raises(TypeError, match="the optimizer is AdamW: pass optimizer_cls_and_kwargs"):
        train(make_trainer(tiny_model, sums, tmp_path, optimizer=(torch.optim.AdamW, {})))


def test_callback_refuses_a_place_behind_those_that_report(tiny_model, sums, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.trainer.get_reporting_integration_callbacks", lambda names: [Reporter()])
    trainer = make_trainer(tiny_model, sums, tmp_path, report_to="tensorboard", callbacks=[MoFOCallback()])
    with pytest.raises(ValueError, match=r"report to tensorboard: use MoFOCallback.attach\(trainer\)"):
        trainer.train()


def test_callback_may_be_in_the_list_where_nothing_is_reported(tiny_model, sums, tmp_path):
    trainer = make_trainer(tiny_model, sums, tmp_path, callbacks=[MoFOCallback()])
    trainer.train()
    assert set(history(trainer)[2]) == NAMES


def test_training_is_the_same_with_the_callback(tiny_model, sums, tmp_path):
    plain, watched = (make_trainer(tiny_model, sums, tmp_path) for _ in range(2))
    plain.train()
    train(watched)
    pairs = zip(plain.model.parameters(), watched.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)

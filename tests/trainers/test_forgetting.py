"""ForgettingCallback: what it reports is what `mofo measure` finds, and the training does not notice it."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from mofo import MoFO, cli
from mofo.errors import UserError
from mofo.forgetting import load_forgetting
from mofo.measure.pair import measure_pair
from mofo.trainers import ForgettingCallback, MoFOCallback
from mofo.trainers.watch import unnoticed
from reference.trainers import make_trainer as make

PROBES = ["divergence", "text"]
NAMES = {"forgotten/divergence", "forgotten/text"}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A cache of the test's own."""
    monkeypatch.setenv("MOFO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bases"


@pytest.fixture
def dropout(tiny_model, tmp_path):
    """The folder of the tiny model with dropout, so that modes and random states show in the result."""
    folder = tmp_path / "dropout"
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.config.attention_dropout = 0.3
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return str(folder)


def lora(model):
    torch.manual_seed(1)
    settings = {"r": 2, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.3, "task_type": "CAUSAL_LM"}
    return get_peft_model(model, LoraConfig(**settings))


def make_trainer(folder, sums, output, **more):
    return make(folder, output, sums, **{"logging_steps": 3} | more)


def history(trainer):
    """What was reported, by step."""
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    ours = {e["step"]: {n: e[n] for n in e if n.startswith("forgotten/")} for e in logs}
    return {step: values for step, values in ours.items() if values}


@pytest.mark.parametrize("wrap", [None, lora], ids=["full", "lora"])
@pytest.mark.parametrize(
    "more", [{}, {"bf16": True}, {"gradient_checkpointing": True}, {"gradient_accumulation_steps": 2}]
)
def test_training_is_the_same_to_the_bit_with_the_callback(dropout, sums, tmp_path, wrap, more):
    plain = make_trainer(dropout, sums, tmp_path / "plain", wrap=wrap, **more)
    plain.train()
    watched = make_trainer(dropout, sums, tmp_path / "watched", wrap=wrap, **more)  # which sets the seed again
    ForgettingCallback.attach(watched, PROBES, every=2)
    watched.train()
    for one, other in zip(plain.model.named_parameters(), watched.model.named_parameters(), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
        assert one[1].requires_grad == other[1].requires_grad
    assert set(history(watched)) == {2, 4}


def test_values_are_what_mofo_measure_finds(tiny_model, sums, tmp_path, monkeypatch):
    monkeypatch.setattr("mofo.measure.pair.choose_precision", lambda wanted: "float32")
    trainer = make_trainer(tiny_model, sums, tmp_path / "out")
    ForgettingCallback.attach(trainer, [*PROBES, "choice"], every=3)
    trainer.train()
    trainer.save_model(tmp_path / "tuned")
    found = measure_pair(tiny_model, str(tmp_path / "tuned"), probes=[*PROBES, "choice"])
    base, tuned = found.base.forgotten, found.tuned.forgotten
    values = history(trainer)[4]
    assert values == pytest.approx(
        {
            "forgotten/divergence": tuned["divergence"]["kl"],
            "forgotten/text": tuned["text"]["loss"] - base["text"]["loss"],
            "forgotten/choice": base["choice"]["log_probability"] - tuned["choice"]["log_probability"],
            "forgotten/choice_accuracy": base["choice"]["accuracy"] - tuned["choice"]["accuracy"],
        },
        rel=1e-4,
    )
    record = load_forgetting(tmp_path / "out")
    assert [mark.at for mark in record.marks] == [3, 4]
    assert record.marks[-1].point.forgotten["divergence"]["kl"] == values["forgotten/divergence"]
    assert record.marks[-1].point.change_errors.forgotten["text"]["loss"] > 0
    assert record.base.forgotten["divergence"] == {"kl": 0}
    assert [step.step for step in record.training] == [3, 4]
    assert 0 < record.seconds < record.total_seconds


def test_base_of_adapters_is_the_model_with_them_switched_off(tiny_model, sums, tmp_path):
    def trained(model):
        adapted = lora(model)
        with torch.no_grad():
            for name, p in adapted.named_parameters():
                if "lora_B" in name:
                    p.normal_(std=0.5)
        return adapted

    trainer = make_trainer(tiny_model, sums, tmp_path / "out", wrap=trained, learning_rate=0.0)
    ForgettingCallback.attach(trainer, PROBES, every=1)
    trainer.train()
    assert history(trainer)[1]["forgotten/divergence"] > 0.001, "the adapters were not zero at the beginning"
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_measured_base_is_read_from_the_cache(tiny_model, sums, tmp_path, cache, monkeypatch):
    def run(name, **more):
        trainer = make_trainer(tiny_model, sums, tmp_path / name, **more)
        ForgettingCallback.attach(trainer, PROBES, every=2)
        trainer.train()
        return history(trainer)

    first = run("first")
    (file,) = cache.iterdir()

    def fail(*_, **__):
        raise AssertionError("written again")

    with monkeypatch.context() as patched:
        patched.setattr("mofo.measure.divergence.write_texts", fail)
        assert run("second") == first
    run("adapted", wrap=lora)
    assert list(cache.iterdir()) == [file], "the weights of the base are the same"
    run("bfloat16", bf16=True)
    assert len(list(cache.iterdir())) == 2


class Reporter(TrainerCallback):
    """Stands for a callback that `report_to` names: it comes before those that the user passes."""

    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append((state.global_step, dict(logs)))


def test_reporting_callbacks_see_the_values(tiny_model, sums, tmp_path, monkeypatch):
    reporter = Reporter()
    monkeypatch.setattr("transformers.trainer.get_reporting_integration_callbacks", lambda names: [reporter])
    trainer = make_trainer(tiny_model, sums, tmp_path, report_to="tensorboard")
    trainer.optimizer_cls_and_kwargs = (MoFO, {"lr": 0.01, "fraction": 0.1})
    MoFOCallback.attach(trainer)
    ForgettingCallback.attach(trainer, PROBES, every=2)
    trainer.train()
    reported = {step: {k: v for k, v in logs.items() if k in NAMES} for step, logs in reporter.seen if "loss" in logs}
    assert {step: values for step, values in reported.items() if values} == history(trainer)
    assert set(history(trainer)[2]) == NAMES
    assert [step for step, logs in reporter.seen if "mofo/selected" in logs] == [3, 4], "both are there"


def test_callback_refuses_a_place_behind_those_that_report(tiny_model, sums, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.trainer.get_reporting_integration_callbacks", lambda names: [Reporter()])
    trainer = make_trainer(
        tiny_model, sums, tmp_path, report_to="tensorboard", callbacks=[ForgettingCallback(["text"])]
    )
    with pytest.raises(ValueError, match=r"report to tensorboard: use ForgettingCallback.attach\(trainer\)"):
        trainer.train()


def test_callback_may_be_in_the_list_where_nothing_is_reported(tiny_model, sums, tmp_path):
    trainer = make_trainer(tiny_model, sums, tmp_path, callbacks=[ForgettingCallback(["text"], every=2)])
    trainer.train()
    assert set(history(trainer)) == {2, 4}


@pytest.mark.parametrize("wrap", [None, lora], ids=["full", "lora"])
def test_resumed_training_compares_with_the_same_base(dropout, sums, tmp_path, wrap, cache):
    more = {"save_strategy": "steps", "save_steps": 2, "wrap": wrap}
    whole = make_trainer(dropout, sums, tmp_path / "whole", **more)
    ForgettingCallback.attach(whole, PROBES, every=1)
    whole.train()
    resumed = make_trainer(dropout, sums, tmp_path / "whole", **more)
    ForgettingCallback.attach(resumed, PROBES, every=1)
    for file in cache.iterdir():
        file.unlink()
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert history(resumed) == history(whole)
    record = load_forgetting(tmp_path / "whole")
    assert [mark.at for mark in record.marks] == [1, 2, 3, 4]


@pytest.mark.parametrize("spoil", [Path.unlink, None])
def test_resumed_training_without_its_base_is_not_measured_and_says_so(tiny_model, sums, tmp_path, spoil):
    more = {"save_strategy": "steps", "save_steps": 2}
    begun = make_trainer(tiny_model, sums, tmp_path, **more)
    ForgettingCallback.attach(begun, PROBES, every=2)
    begun.train()
    if spoil:
        spoil(tmp_path / "forgetting_base_0.safetensors")
    resumed = make_trainer(tiny_model, sums, tmp_path, **more)
    ForgettingCallback.attach(resumed, PROBES if spoil else ["text"], every=1)
    with pytest.warns(UserWarning, match="forgetting is not measured any more"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert set(history(resumed)) == {2}


def test_training_that_ends_early_is_measured_at_its_end(tiny_model, sums, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    trainer = make_trainer(tiny_model, sums, tmp_path, callbacks=[Stop()])
    ForgettingCallback.attach(trainer, ["text"], every=2)
    trainer.train()
    assert [mark.at for mark in load_forgetting(tmp_path).marks] == [2, 3]


SHARED = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.01,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "logging_steps": 2,
    "save_strategy": "no",
}


@pytest.mark.parametrize("kind", ["sft", "dpo", "kto", "grpo"])
@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
def test_callback_works_with_the_trainers_of_trl(tiny_model, sums, tmp_path, kind, adapted):
    if kind == "sft":
        maker, config, more = SFTTrainer, SFTConfig, {}
        data = [{"text": row["answer"]} for row in sums]
    elif kind == "dpo":
        maker, config, more = DPOTrainer, DPOConfig, {}
        data = [{"prompt": row["question"], "chosen": row["answer"], "rejected": "No."} for row in sums]
    elif kind == "kto":
        maker, config, more = KTOTrainer, KTOConfig, {}
        data = [{"prompt": r["question"], "completion": r["answer"], "label": n % 2 == 0} for n, r in enumerate(sums)]
    else:
        maker, config = GRPOTrainer, GRPOConfig
        more = {"reward_funcs": lambda completions, **_: [float(len(set(text))) for text in completions]}
        data = [{"prompt": row["question"]} for row in sums]
    extra = {"num_generations": 2, "max_completion_length": 8} if kind == "grpo" else {}
    trainer = maker(
        model=tiny_model,
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        args=config(output_dir=str(tmp_path), **SHARED, **extra),
        train_dataset=Dataset.from_list(data),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM") if adapted else None,
        **more,
    )
    ForgettingCallback.attach(trainer, PROBES, every=1)
    trainer.train()
    assert set(history(trainer)) == {1, 2}
    assert history(trainer)[2]["forgotten/divergence"] != 0
    assert json.loads((tmp_path / "forgetting.json").read_text())["over"] == "step"


def test_report_draws_what_was_written(tiny_model, sums, tmp_path, capsys):
    trainer = make_trainer(tiny_model, sums, tmp_path, max_steps=2)
    ForgettingCallback.attach(trainer, ["text"], every=1)
    trainer.train()
    capsys.readouterr()
    assert cli.main(["report", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Result: After step 2, ")
    assert [line.split()[0] for line in shown.splitlines() if line.strip()[:1].isdigit()] == ["0", "1", "2"]
    page = (tmp_path / "report.html").read_text()
    assert "Forgetting along the training: text loss" in page
    assert "The course of the training: Training loss" in page


def test_without_a_number_of_steps_the_first_measurement_is_after_fifty(tiny_model, sums, tmp_path):
    trainer = make_trainer(tiny_model, sums, tmp_path, max_steps=52)
    ForgettingCallback.attach(trainer, ["text"])
    trainer.train()
    assert [mark.at for mark in load_forgetting(tmp_path).marks] == [50, 52]


@pytest.mark.parametrize(("way", "every"), [("pull", None), ("stop", 50), ("slow-pull", 50)])
def test_time_does_not_decide_when_a_budget_brakes(monkeypatch, way, every):
    asked = []
    monkeypatch.setattr("mofo.trainers.watch.Pace", asked.append)
    ForgettingCallback(["text"], budget={"text": 1.0}, way=way)
    ForgettingCallback(["text"], 7, budget={"text": 1.0}, way=way)
    assert asked == [every, 7]


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="Unknown probe `kl`"):
        ForgettingCallback(["kl"])
    with pytest.raises(UserError, match="every is 0, expected a number of steps of at least 1"):
        ForgettingCallback(["text"], every=0)
    with pytest.raises(UserError, match="name at least one probe"):
        ForgettingCallback([])


def test_callback_needs_a_tokenizer(tiny_model, sums, tmp_path):
    trainer = make_trainer(tiny_model, sums, tmp_path)
    trainer.callback_handler.processing_class = None
    ForgettingCallback.attach(trainer, ["text"])
    with pytest.raises(ValueError, match="needs the model's tokenizer"):
        trainer.train()
    ForgettingCallback.attach(trainer, ["text"], tokenizer=AutoTokenizer.from_pretrained(tiny_model))


def test_unnoticed_restores_modes_gradients_and_random_states(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model).train()
    model.model.norm.eval()
    model.lm_head.weight.requires_grad_(False)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    with unnoticed(model):
        model.eval().requires_grad_(True)
        torch.rand(3), random.random(), np.random.rand(3)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002
    assert model.training
    assert not model.model.norm.training
    assert not model.lm_head.weight.requires_grad
    assert model.model.layers[0].mlp.up_proj.weight.requires_grad

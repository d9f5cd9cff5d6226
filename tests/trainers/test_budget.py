"""A budget of forgetting: held at the end whatever the way, and the same to the bit when resumed."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, TrainerCallback

from mofo import MoFO
from mofo.errors import UserError
from mofo.forgetting import load_forgetting
from mofo.models.line import Line, at, copy_of_trained, largest_share
from mofo.trainers import ForgettingCallback, use_method
from mofo.trainers.budget import WAYS, Budget, parse_budget
from mofo.trainers.trl.training import train
from reference.sft import equal, flags, weights
from reference.trainers import make_trainer as make

BOUNDS = {"full": 0.03, "lora": 3e-4}
"""Bounds of the divergence that a training without a budget exceeds."""


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """A cache of these tests' own: what the base writes is written once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MOFO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def lora(model, **more):
    torch.manual_seed(1)
    return get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM", **more)
    )


class Rates(TrainerCallback):
    """Notes learning rate and fraction of each step as the optimizer has them."""

    def __init__(self):
        self.seen = {}

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        group = kwargs["optimizer"].param_groups[0]
        self.seen[state.global_step + 1] = (group["lr"], group.get("fraction"))


def make_trainer(folder, sums, output, *, mofo=False, **more):
    settings = {
        "max_steps": 8,
        "lr_scheduler_type": "linear",
        "logging_steps": 3,
        "save_strategy": "steps",
        "save_steps": 4,
        "optimizer": (MoFO, {"lr": 0.01, "fraction": 0.5}) if mofo else None,
    }
    trainer = make(folder, output, sums, **settings | more)
    trainer.rates = Rates()
    trainer.add_callback(trainer.rates)
    return trainer


def parameters(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def logged(trainer, name):
    return {entry["step"]: entry[name] for entry in trainer.state.log_history if name in entry}


def run(folder, sums, output, *, budget=None, way="pull", every=2, resume=None, **more):
    """Train with a budget; the trainer and its callback."""
    trainer = make_trainer(folder, sums, output, **more)
    callback = ForgettingCallback.attach(trainer, ["divergence"], every, budget=budget, way=way)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, callback


WRAPS = {"full": None, "lora": lora}


@pytest.fixture(scope="module")
def plain(tiny_model, sums, tmp_path_factory):
    """Trainings without a budget: weights at the beginning and at the end, and the divergence by step."""
    found = {}
    for kind, wrap in WRAPS.items():
        base = parameters(make_trainer(tiny_model, sums, tmp_path_factory.mktemp("base"), wrap=wrap))
        trainer, _ = run(tiny_model, sums, tmp_path_factory.mktemp("plain"), wrap=wrap)
        found[kind] = base, parameters(trainer), logged(trainer, "forgotten/divergence")
    return found


@pytest.mark.parametrize("kind", WRAPS)
def test_pull_keeps_the_largest_share_of_the_change_that_is_within_the_budget(tiny_model, sums, tmp_path, plain, kind):
    base, end, divergence = plain[kind]
    bound = BOUNDS[kind]
    assert divergence[8] > 1.2 * bound
    trainer, callback = run(tiny_model, sums, tmp_path, budget={"divergence": bound}, wrap=WRAPS[kind])
    kept = callback.kept
    assert 0 < kept.share < 1
    assert kept.used_before == pytest.approx(divergence[8] / bound)
    assert (kept.step, kept.planned_steps, kept.way) == (8, 8, "pull")
    assert logged(trainer, "budget/kept") == {8: kept.share}
    assert logged(trainer, "budget/used") == pytest.approx(
        {step: value / bound for step, value in divergence.items()} | {8: kept.used}
    )

    now = parameters(trainer)
    for name, weight in now.items():
        share = kept.share if kind == "full" or ".lora_B." in name else 1
        start = torch.zeros_like(weight) if ".lora_B." in name else base[name]
        torch.testing.assert_close(weight, start + share * (end[name] - start), rtol=1e-6, atol=1e-8)

    # What is left in the model is what was noted, and a step less of the way back would not do.
    probe = callback._training.watch._probes[0]
    assert probe.measure(trainer.model)["kl"] == pytest.approx(kept.used * bound, rel=1e-6)
    record = load_forgetting(tmp_path)
    assert record.kept == kept
    assert record.marks[-1].point.forgotten["divergence"]["kl"] == pytest.approx(kept.used * bound)
    line = Line(trainer.model, base)
    line.go((kept.share + 1 / 128) / kept.share)
    assert probe.measure(trainer.model)["kl"] > bound >= kept.used * bound


@pytest.mark.parametrize("kind", WRAPS)
def test_pulled_training_resumes_to_the_same_bits(tiny_model, sums, tmp_path, kind):
    settings = {"budget": {"divergence": BOUNDS[kind]}, "wrap": WRAPS[kind], "max_steps": 6, "save_steps": 3}
    whole, callback = run(tiny_model, sums, tmp_path, **settings)
    assert (tmp_path / "budget_base_0.safetensors").exists() == (kind == "full")
    assert callback.kept.share < 1
    for step in (3, 6):  # from that of the last step, which ends an epoch, there is nothing left to do
        resumed, other = run(tiny_model, sums, tmp_path, **settings, resume=str(tmp_path / f"checkpoint-{step}"))
        assert equal(parameters(resumed), parameters(whole))
        assert other.kept == callback.kept
        assert load_forgetting(tmp_path).kept == callback.kept


def test_budget_that_is_not_used_up_leaves_the_training_as_it_is(tiny_model, sums, tmp_path, plain):
    trainer, callback = run(tiny_model, sums, tmp_path, budget={"divergence": 1.0, "text": 3.0}, way="slow-pull")
    assert equal(parameters(trainer), plain["full"][1])
    assert callback.kept.share == 1
    assert callback.kept.used == callback.kept.used_before < 1
    assert set(logged(trainer, "forgotten/text")) == {2, 4, 6, 8}, "measured although probes do not name it"


@pytest.mark.parametrize(
    "way", ["stop", "slow-pull", *(pytest.param(w, marks=pytest.mark.full) for w in ("slow", "stop-pull"))]
)
def test_braked_training_is_held_and_resumes_to_the_same_bits(tiny_model, sums, tmp_path, way):
    settings = {"budget": {"divergence": 0.04}, "way": way, "mofo": True}
    whole, callback = run(tiny_model, sums, tmp_path, **settings)
    used, kept = logged(whole, "budget/used"), callback.kept
    rates = whole.rates.seen
    scheduled = {step: 0.01 * (9 - step) / 8 for step in rates}
    if way.startswith("stop"):
        first = min(step for step in (2, 4, 6, 8) if step == kept.step)
        assert kept.step < 8
        assert kept.used_before >= 1
        assert all(share < 1 for step, share in used.items() if step < first)
        assert {step: rate for step, (rate, _) in rates.items()} == pytest.approx(scheduled)
    else:
        brakes = {step: min(1, 2 * (1 - used.get((step - 1) // 2 * 2, 0))) for step in rates}
        assert min(brakes.values()) < 0.9
        expected = {step: (scheduled[step] * b, 0.5 * b) for step, b in brakes.items()}
        assert {step: pytest.approx(values) for step, values in expected.items()} == rates
    assert whole.lr_scheduler.get_last_lr() == pytest.approx([0.01 * (8 - kept.step) / 8] * 2), (
        "schedulers see no brake"
    )
    assert whole.optimizer.param_groups[0]["fraction"] == 0.5
    if "pull" in way:
        assert kept.used <= 1
    else:
        assert kept.share == 1

    resumed, other = run(tiny_model, sums, tmp_path, **settings, resume=str(tmp_path / "checkpoint-4"))
    assert equal(parameters(resumed), parameters(whole))
    assert other.kept.model_dump() | {"step": 0} == kept.model_dump() | {"step": 0}


def test_training_that_diverged_is_pulled_back_to_the_base(tiny_model, sums, tmp_path, plain):
    class Break(TrainerCallback):
        def on_optimizer_step(self, args, state, control, **kwargs):
            with torch.no_grad():
                next(kwargs["model"].parameters())[5] = math.nan

    trainer = make_trainer(tiny_model, sums, tmp_path, max_steps=1, save_strategy="no")
    trainer.add_callback(Break())
    callback = ForgettingCallback.attach(trainer, budget={"divergence": 0.1})
    trainer.train()
    assert equal(parameters(trainer), plain["full"][0])
    assert (callback.kept.share, callback.kept.used, callback.kept.used_before) == (0, 0, None)


def test_training_that_others_end_is_held_too(tiny_model, sums, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 5

    trainer = make_trainer(tiny_model, sums, tmp_path, save_strategy="no")
    trainer.add_callback(Stop())
    callback = ForgettingCallback.attach(trainer, ["divergence"], 4, budget={"divergence": 0.02})
    trainer.train()
    assert (callback.kept.step, callback.kept.planned_steps) == (5, 8)
    assert callback.kept.share < 1
    assert callback.kept.used <= 1


def test_resumed_training_without_the_bases_weights_is_refused(tiny_model, sums, tmp_path):
    settings = {"budget": {"divergence": 0.03}}
    run(tiny_model, sums, tmp_path, **settings, max_steps=4)
    (tmp_path / "budget_base_0.safetensors").unlink()
    with pytest.raises(UserError, match="does not hold the weights that this training began with"):
        run(tiny_model, sums, tmp_path, **settings, resume=str(tmp_path / "checkpoint-4"))


def test_pull_is_refused_for_adapters_without_a_straight_way_back(tiny_model, sums, tmp_path):
    def dora(model):
        return lora(model, use_dora=True)

    def with_bias(model):
        return lora(model, modules_to_save=["norm"])

    for wrap, message in [(dora, "a variant such as DoRA is trained"), (with_bias, "norm.*is trained")]:
        with pytest.raises(UserError, match=f"{message}: hold a budget by stop or slow"):
            run(tiny_model, sums, tmp_path, budget={"divergence": 0.03}, wrap=wrap, save_strategy="no")


def test_budget_is_a_part_of_a_method_in_any_trainer(tiny_model, sums, tmp_path):
    trainer = make_trainer(tiny_model, sums, tmp_path)
    method = use_method(trainer, "adamw+budget", {"budget.bound": 0.03, "budget.every": 4})
    assert method.info.label == "AdamW + budget"
    trainer.train()
    assert not list(tmp_path.glob("*.safetensors")), "the method keeps the base's weights in memory"
    assert load_forgetting(tmp_path).kept.share < 1
    assert 0.5 < load_forgetting(tmp_path).kept.used <= 1


def test_sft_holds_a_budget_and_resumes_to_the_same_bits(settings, tmp_path, capsys):
    settings |= {"max_steps": 4, "save_steps": 2, "fraction": 1, "budget": "divergence=0.01", "probe_steps": 2}
    train("sft", flags(settings))
    printed = capsys.readouterr().out
    assert "Budget divergence=0.01: " in printed
    assert "pulled back to " in printed
    kept = load_forgetting(Path(settings["output_dir"])).kept
    assert 0.5 < kept.used <= 1
    again = tmp_path / "again"
    shutil.copytree(settings["output_dir"], again, ignore=shutil.ignore_patterns("checkpoint-4"))
    train("sft", flags(settings, output_dir=again, resume_from_checkpoint=again / "checkpoint-2"))
    assert equal(weights(again), weights(settings["output_dir"]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"budget": "divergence"}, "expected PROBE=BOUND, such as divergence=0.05"),
        ({"budget": "divergence=much"}, "expected PROBE=BOUND"),
        ({"budget": "divergence=0"}, "The budget of divergence is 0, which leaves the base as it is"),
        ({"budget": "divergence=-0.1"}, "by how much it may rise"),
        ({"budget": "choice=-0.1"}, "by how much it may fall, which is worse. 0.1 lets it fall by 0.1"),
        ({"budget": "divergence=nan"}, "is nan, expected a number above 0"),
        ({"budget": "divergense=0.1"}, r"Unknown probe `divergense` \(did you mean divergence\?\)"),
        ({"budget": "text=1,text=2"}, "two bounds for text"),
        ({"budget": "text:missing.txt=1"}, "missing.txt"),
        ({"budget": "text=1", "budget_way": "hope"}, "hope"),
        ({"budget": "text=1", "probe_steps": 0}, "every is 0"),
        ({"budget_way": "stop"}, "--budget_way is given without --budget"),
    ],
)
def test_sft_refuses_budgets_that_cannot_be(settings, changed, message):
    with pytest.raises(UserError, match=message):
        train("sft", flags(settings | changed))


def test_used_is_the_share_of_the_probe_that_used_most():
    budget = Budget({"divergence": 0.1, "text": 0.5})
    assert budget.used({"forgotten/divergence": 0.05, "forgotten/text": 0.1, "forgotten/choice": 9.0}) == 0.5
    assert budget.used({"forgotten/divergence": 0.05, "forgotten/text": 1.0}) == 2
    assert budget.used({"forgotten/divergence": 0.05}) == math.inf, "not finite, and so left out"
    assert budget.used({"forgotten/divergence": math.nan, "forgotten/text": 0.0}) == math.inf


def test_brake_of_each_way():
    used = [-0.5, 0.0, 0.5, 0.75, 1.0, 1.5, math.inf]
    brakes = {way: [Budget({"text": 1.0}, way).brake(share) for share in used] for way in WAYS}
    assert brakes["pull"] == [1] * 7
    assert brakes["stop"] == brakes["stop-pull"] == [1, 1, 1, 1, 0, 0, 0]
    assert brakes["slow"] == brakes["slow-pull"] == [1, 1, 1, 0.5, 0, 0, 0]


def test_budget_of_the_command_line_is_read():
    assert parse_budget("divergence=0.05,text:a=b.txt=1e-1") == {"divergence": 0.05, "text:a=b.txt": 0.1}
    with pytest.raises(UserError, match="The budget is empty"):
        Budget({})
    with pytest.raises(UserError, match="is True, expected a number above 0"):
        Budget({"text": True})
    with pytest.raises(UserError, match="expected one of pull, stop"):
        Budget({"text": 1.0}, "hope")


def test_line_leads_from_the_base_to_the_model_and_back_to_the_bit(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.model.norm.weight.requires_grad_(False)
    base = copy_of_trained(model)
    assert "model.norm.weight" not in base
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    end = copy_of_trained(model)
    line = Line(model, base)
    for share in (0.0, 1.0, 0.25, 1.0, 0.0):
        line.go(share)
        now = copy_of_trained(model)
        if share in (0, 1):
            assert equal(now, end if share else base)
        else:
            for name in base:
                expected = base[name].double() + share * (end[name].double() - base[name].double())
                torch.testing.assert_close(now[name].double(), expected, rtol=1e-6, atol=1e-7)
    line.go(1)
    with at(model, base):
        assert equal(copy_of_trained(model), base)
    assert equal(copy_of_trained(model), end)


@pytest.mark.parametrize("limit", [0.0, 0.003, 0.3, 0.5, 0.777, 1.0, 2.0])
def test_search_finds_the_largest_share_of_128(limit):
    asked = []

    def is_within(share):
        asked.append(share)
        return share <= limit

    assert largest_share(is_within) == min(1.0, math.floor(128 * limit) / 128)
    assert 0 not in asked
    assert len(asked) <= 8


def test_best_checkpoint_that_is_loaded_at_the_end_is_held_too(tiny_model, sums, tmp_path):
    more = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 4, "metric_for_best_model": "loss"}
    trainer = make_trainer(tiny_model, sums, tmp_path, **more)  # step 4 is better than the end, which is pulled back
    callback = ForgettingCallback.attach(trainer, ["divergence"], 4, budget={"divergence": 0.02})
    trainer.train()
    assert Path(trainer.state.best_model_checkpoint).name == "checkpoint-4"
    assert 0 < callback.kept.share < 1
    assert callback._training.watch._probes[0].measure(trainer.model)["kl"] == pytest.approx(0.02 * callback.kept.used)
    assert callback.kept.used <= 1

"""A budget of forgetting under Lightning's trainer: held at the end, saved so, and the same to the bit when resumed."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from mofo import MoFO
from mofo.errors import UserError
from mofo.forgetting import load_forgetting
from reference.sft import equal

L = pytest.importorskip("lightning")

BOUNDS = {"full": 0.012, "lora": 4e-6}
"""Bounds of the divergence that a training without a budget exceeds."""


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """A cache of these tests' own: what the base writes is written once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MOFO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


class Tuning(L.LightningModule):
    """Notes learning rate and fraction of each step as the optimizer has them."""

    def __init__(self, folder, *, lora=False):
        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(folder).train()
        if lora:
            torch.manual_seed(1)
            self.model = get_peft_model(self.model, LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
        self.batches = torch.randint(6, 260, (8, 4, 12), generator=torch.Generator().manual_seed(0))
        self.rates = {}

    def training_step(self, batch, _):
        tokens = self.batches[self.global_step]
        return self.model(input_ids=tokens, labels=tokens).loss

    def on_before_optimizer_step(self, optimizer):
        group = optimizer.param_groups[0]
        self.rates[self.global_step + 1] = group["lr"], group["fraction"]

    def configure_optimizers(self):
        optimizer = MoFO(self.parameters(), lr=0.01, fraction=0.5)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 8)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Logger(L.pytorch.loggers.logger.DummyLogger):
    def __init__(self):
        super().__init__()
        self.seen = {}

    def log_metrics(self, metrics, step=None):
        self.seen.setdefault(step, {}).update(metrics)


def fit(
    folder, output, *, lora=False, checkpoint=None, after=(), make=Tuning, every=2, budget=None, way="pull", **more
):
    """Train for at most 8 steps, with a checkpoint after every second: module, trainer and the callback."""
    from mofo.trainers.lightning import ForgettingCallback

    L.seed_everything(0, verbose=False)
    bounds = None if budget is None else {"divergence": budget}
    callback = ForgettingCallback(AutoTokenizer.from_pretrained(folder), ["divergence"], every, budget=bounds, way=way)
    saved = L.pytorch.callbacks.ModelCheckpoint(output / "saved", "{step}", every_n_train_steps=2, save_top_k=-1)
    module = make(folder, lora=lora)
    settings = {
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": Logger(),
        "max_steps": 8,
    }
    trainer = L.Trainer(default_root_dir=output, callbacks=[callback, *after, saved], **settings | more)
    trainer.fit(module, torch.utils.data.DataLoader(range(16)), ckpt_path=checkpoint)
    return module, trainer, callback


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def saved_weights(output, step):
    """The parameters in a checkpoint; tied ones once, as a module names them."""
    found = torch.load(output / "saved" / f"step={step}.ckpt", weights_only=True)["state_dict"]
    return {name: weight for name, weight in found.items() if name != "model.lm_head.weight"}


@pytest.mark.parametrize("kind", BOUNDS)
def test_end_is_pulled_back_before_it_is_saved(tiny_model, tmp_path, kind):
    lora = kind == "lora"
    base = weights(Tuning(tiny_model, lora=lora))
    plain, _, _ = fit(tiny_model, tmp_path / "plain", lora=lora)
    end = weights(plain)
    module, trainer, callback = fit(tiny_model, tmp_path, lora=lora, budget=BOUNDS[kind])
    kept, seen = callback.kept, trainer.logger.seen
    assert 0 < kept.share < 1
    assert 0.5 < kept.used <= 1 < kept.used_before
    assert (kept.step, kept.planned_steps, kept.way) == (8, 8, "pull")
    assert load_forgetting(tmp_path).kept == kept
    assert [seen[step]["budget/used"] > 0 for step in (2, 4, 6)] == [True] * 3
    assert (seen[8]["budget/used"], seen[8]["budget/kept"]) == (kept.used, kept.share)
    assert float(trainer.callback_metrics["budget/kept"]) == pytest.approx(kept.share)
    now = weights(module)
    for name, weight in now.items():
        share = kept.share if not lora or ".lora_B." in name else 1
        start = torch.zeros_like(weight) if ".lora_B." in name else base[name]
        torch.testing.assert_close(weight, start + share * (end[name] - start), rtol=1e-6, atol=1e-8)
    assert all(torch.equal(weight, saved_weights(tmp_path, 8)[name]) for name, weight in now.items())
    assert callback._training.watch._probes[0].measure(module.model)["kl"] == pytest.approx(kept.used * BOUNDS[kind])


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        pytest.param({"max_epochs": 2, "limit_train_batches": 3}, 6, marks=pytest.mark.full),
        ({"max_epochs": 2, "limit_train_batches": 3, "accumulate_grad_batches": 2}, 4),
        ({"max_steps": 3, "accumulate_grad_batches": 3}, 3),
    ],
)
def test_last_step_is_known_where_epochs_end_or_gradients_are_accumulated(tiny_model, tmp_path, more, steps):
    settings = {"max_steps": -1} | more
    module, trainer, callback = fit(tiny_model, tmp_path, budget=0.003, **settings)
    kept = callback.kept
    assert (kept.step, kept.planned_steps) == (steps, steps)
    assert kept.share < 1
    assert kept.used <= 1
    assert trainer.logger.seen[steps]["budget/kept"] == kept.share, "logged as the last batch ends"
    assert float(trainer.callback_metrics["budget/used"]) == pytest.approx(kept.used)
    assert [mark.at for mark in load_forgetting(tmp_path).marks] == [*range(2, steps, 2), steps]
    if steps % 2 == 0:
        assert equal(weights(module), saved_weights(tmp_path, steps))


@pytest.mark.parametrize(("way", "bound"), [pytest.param("stop", 0.012, marks=pytest.mark.full), ("slow-pull", 0.03)])
def test_braked_training_is_held_and_resumes_to_the_same_bits(tiny_model, tmp_path, way, bound):
    whole, trainer, callback = fit(tiny_model, tmp_path, budget=bound, way=way)
    kept = callback.kept
    used = {step: values["budget/used"] for step, values in trainer.logger.seen.items() if "budget/used" in values}
    scheduled = {step: 0.01 * (9 - step) / 8 for step in whole.rates}
    if way == "stop":
        assert kept.step < 8
        assert kept.share == 1 <= kept.used
        assert {step: rate for step, (rate, _) in whole.rates.items()} == pytest.approx(scheduled)
    else:
        brakes = {step: min(1, 2 * (1 - used.get((step - 1) // 2 * 2, 0))) for step in whole.rates}
        assert 0 < min(brakes.values()) < 0.9
        expected = {step: pytest.approx((scheduled[step] * brake, 0.5 * brake)) for step, brake in brakes.items()}
        assert expected == whole.rates
        assert kept.used <= 1
    (group,) = trainer.optimizers[0].param_groups
    assert (group["lr"], group["fraction"]) == pytest.approx((0.01 * (8 - kept.step) / 8, 0.5)), "the brake is off"

    checkpoint = tmp_path / "saved" / f"step={kept.step - 2}.ckpt"
    resumed, _, other = fit(tiny_model, tmp_path, budget=bound, way=way, checkpoint=checkpoint)
    assert equal(weights(resumed), weights(whole))
    assert other.kept == kept


def test_stop_waits_for_min_steps_and_nothing_moves_meanwhile(tiny_model, tmp_path):
    module, _, callback = fit(tiny_model, tmp_path, budget=0.001, way="stop-pull", min_steps=6, limit_train_batches=2)
    kept = callback.kept
    assert (kept.step, kept.planned_steps) == (6, 8)
    assert 0 < kept.share < 1
    assert kept.used <= 1 < kept.used_before
    moving = {step for step, (rate, _) in module.rates.items() if rate}
    assert moving == set(range(1, max(moving) + 1))
    assert max(moving) < 6
    assert equal(saved_weights(tmp_path, max(moving)), saved_weights(tmp_path, 4))
    assert not equal(weights(module), saved_weights(tmp_path, 4)), "pulled back at the end"


def test_training_that_others_end_is_held_too(tiny_model, tmp_path):
    class Stop(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step == 5

    _, trainer, callback = fit(tiny_model, tmp_path, every=4, budget=0.01, after=[Stop()])
    assert (callback.kept.step, callback.kept.planned_steps) == (5, 8)
    assert callback.kept.share < 1
    assert callback.kept.used <= 1
    assert trainer.logger.seen[5]["budget/kept"] == callback.kept.share


def test_planned_step_of_a_stream_without_end_is_the_last_one(tiny_model, tmp_path):
    class Timer(L.Callback):
        def on_train_batch_start(self, trainer, *_):
            trainer.should_stop = trainer.global_step == 3

    module = Tuning(tiny_model)
    _, _, callback = fit(
        tiny_model,
        tmp_path,
        budget=0.01,
        after=[Timer()],
        make=lambda *_, **__: module,
        max_steps=-1,
        max_epochs=-1,
    )
    assert callback.kept.step == callback.kept.planned_steps == 4


class Duck:
    """What Lightning takes for an optimizer, and torch does not."""

    def __init__(self, params):
        self.inner = torch.optim.SGD(params, lr=0.1)
        self.param_groups, self.state, self.defaults = self.inner.param_groups, self.inner.state, {}

    def step(self, closure=None):
        return self.inner.step(closure)

    def zero_grad(self, *, set_to_none=True):
        self.inner.zero_grad(set_to_none)

    def state_dict(self):
        return self.inner.state_dict()

    def load_state_dict(self, state):
        self.inner.load_state_dict(state)


class WithDuck(Tuning):
    def configure_optimizers(self):
        return Duck(self.parameters())


def test_optimizer_whose_steps_cannot_be_braked_is_refused(tiny_model, tmp_path):
    with pytest.raises(
        UserError, match=r"Duck is no torch.optim.Optimizer, whose steps can be braked; hold it by way="
    ):
        fit(tiny_model, tmp_path, budget=0.03, way="slow", make=WithDuck)


def test_flattened_parameters_are_refused(tiny_model):
    from lightning.pytorch.strategies import FSDPStrategy

    from mofo.trainers.lightning import ForgettingCallback

    trainer = SimpleNamespace(strategy=object.__new__(FSDPStrategy))
    callback = ForgettingCallback(AutoTokenizer.from_pretrained(tiny_model), budget={"divergence": 0.1})
    with pytest.raises(UserError, match="FSDPStrategy flattens the parameters, with which no budget can be held"):
        callback.on_train_start(trainer, None)


def test_budget_is_checked_when_the_callback_is_made(tiny_model):
    from mofo.trainers.lightning import ForgettingCallback

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for budget, way, message in [
        ({"divergense": 1.0}, "pull", "Unknown probe"),
        ({"text": 0}, "pull", "The budget of text is 0"),
        ({"text": 1.0}, "hope", "expected one of pull, stop"),
    ]:
        with pytest.raises(UserError, match=message):
            ForgettingCallback(tokenizer, budget=budget, way=way)

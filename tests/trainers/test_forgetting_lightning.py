"""ForgettingCallback under Lightning's trainer."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mofo.forgetting import load_forgetting

L = pytest.importorskip("lightning")


class Tuning(L.LightningModule):
    def __init__(self, tiny_model):
        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(
            tiny_model, dtype=torch.float32, attention_dropout=0.3
        ).train()
        self.batches = torch.randint(6, 260, (8, 4, 12), generator=torch.Generator().manual_seed(0))

    def training_step(self, batch, _):
        tokens = self.batches[self.global_step]
        return self.model(input_ids=tokens, labels=tokens).loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class Logger(L.pytorch.loggers.logger.DummyLogger):
    def __init__(self):
        super().__init__()
        self.seen = {}

    def log_metrics(self, metrics, step=None):
        ours = {name: value for name, value in metrics.items() if name.startswith("forgotten/")}
        if ours:
            self.seen[step] = ours


def fit(tiny_model, folder, steps, *, every=None, checkpoint=None, logger=False, **more):
    from mofo.trainers.lightning import ForgettingCallback

    L.seed_everything(0, verbose=False)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    callbacks = [ForgettingCallback(tokenizer, ["divergence", "text"], every)] if every else []
    module = Tuning(tiny_model)
    settings = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": logger}
    trainer = L.Trainer(max_steps=steps, default_root_dir=folder, callbacks=callbacks, **settings, **more)
    trainer.fit(module, torch.utils.data.DataLoader(range(100)), ckpt_path=checkpoint)
    return module, trainer


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MOFO_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_is_the_same_to_the_bit_and_all_loggers_get_the_values(tiny_model, tmp_path, precision):
    plain, _ = fit(tiny_model, tmp_path / "plain", 4, precision=precision)
    logger = Logger()
    watched, trainer = fit(tiny_model, tmp_path / "watched", 4, every=2, logger=logger, precision=precision)
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), watched.parameters(), strict=True))
    assert set(logger.seen) == {2, 4}
    assert logger.seen[4]["forgotten/divergence"] > 0
    assert trainer.callback_metrics["forgotten/divergence"] == pytest.approx(logger.seen[4]["forgotten/divergence"])
    record = load_forgetting(tmp_path / "watched")
    assert [mark.at for mark in record.marks] == [2, 4]
    assert [step.step for step in record.training] == [1, 2, 3, 4]


def test_resumed_training_compares_with_the_same_base(tiny_model, tmp_path):
    first, second = Logger(), Logger()
    fit(tiny_model, tmp_path, 2, every=1, logger=first)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    fit(tiny_model, tmp_path, 3, every=1, logger=second, checkpoint=checkpoint)
    whole = Logger()
    fit(tiny_model, tmp_path / "whole", 3, every=1, logger=whole)
    assert set(first.seen) == {1, 2}
    assert second.seen[3]["forgotten/divergence"] == pytest.approx(whole.seen[3]["forgotten/divergence"], rel=0.2)
    assert [mark.at for mark in load_forgetting(tmp_path).marks] == [1, 2, 3]

"""MoFO under Lightning's trainer: gradient clipping, mixed precision, checkpoints."""

import pytest
import torch
from transformers import AutoModelForCausalLM

import mofo
from mofo import MoFO
from mofo.optim.rule.blocks import selected_count

L = pytest.importorskip("lightning")


class Tuning(L.LightningModule):
    """Takes its batch by the number of the step: Lightning by itself does not go on within an epoch where it was."""

    def __init__(self, tiny_model, dtype=torch.float32):
        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype).train()
        generator = torch.Generator().manual_seed(0)
        self.batches = torch.randint(6, 260, (8, 4, 12), generator=generator)

    def training_step(self, batch, _):
        tokens = self.batches[self.global_step]
        return self.model(input_ids=tokens, labels=tokens).loss

    def configure_optimizers(self):
        return MoFO(mofo.param_groups(self.model, fraction=0.1, weight_decay=0.1), lr=0.01)


def fit(tiny_model, folder, steps, *, dtype=torch.float32, checkpoint=None, **more):
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    module = Tuning(tiny_model, dtype)
    trainer = L.Trainer(max_steps=steps, default_root_dir=folder, **settings, **more)
    trainer.fit(module, torch.utils.data.DataLoader(range(100)), ckpt_path=checkpoint)
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_resumed_run_equals_an_uninterrupted_one(tiny_model, tmp_path, dtype):
    whole = fit(tiny_model, tmp_path / "whole", 6, dtype=dtype)
    begun = fit(tiny_model, tmp_path / "begun", 3, dtype=dtype)
    (checkpoint,) = (tmp_path / "begun").rglob("*.ckpt")
    resumed = fit(tiny_model, tmp_path / "resumed", 6, dtype=dtype, checkpoint=checkpoint)
    assert resumed.global_step == 6
    pairs = list(zip(whole.parameters(), resumed.parameters(), begun.parameters(), strict=True))
    assert all(torch.equal(one, other) for one, other, _ in pairs)
    assert not any(torch.equal(other, early) for _, other, early in pairs if other.dim() > 1)
    states = (list(module.optimizers().optimizer.state.values()) for module in (whole, resumed))
    for one, other in zip(*states, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("step", "exp_avg", "exp_avg_sq"))
        assert other["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_before_the_step(tiny_model, tmp_path, precision):
    module = fit(tiny_model, tmp_path, 1, precision=precision, gradient_clip_val=0.001)
    moments = [state["exp_avg"] for state in module.optimizers().optimizer.state.values()]
    assert torch.cat([m.flatten() for m in moments]).norm().item() == pytest.approx((1 - 0.9) * 0.001, rel=1e-3)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).parameters()
    for old, p in zip(base, module.model.parameters(), strict=True):
        assert int((p != old).sum()) == selected_count(0.1, p.numel())


def test_lightning_lets_gradients_of_float16_be_clipped():
    from lightning.fabric.plugins.precision.amp import _optimizer_handles_unscaling

    optimizer = MoFO([torch.zeros(3, requires_grad=True)])
    assert not _optimizer_handles_unscaling(optimizer)  # for those that do, it refuses gradient_clip_val

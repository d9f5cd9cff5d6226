"""Extras of the workbench's methods under Lightning's trainer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mofo.errors import UserError
from mofo.methods.part import Setup
from mofo.methods.self_distill import SelfDistill

L = pytest.importorskip("lightning")

DISTILL = {"texts": 3, "tokens": 8, "weight": 20.0}


class Tuning(L.LightningModule):
    """Takes its batch by the number of batches seen: Lightning by itself does not go on within an epoch."""

    def __init__(self, tiny_model, accumulate=1):
        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).train()
        self.batches = torch.randint(6, 260, (8, 4, 12), generator=torch.Generator().manual_seed(0))
        self.accumulate = accumulate

    def training_step(self, batch, number):
        tokens = self.batches[self.global_step if self.accumulate == 1 else number]
        return self.model(input_ids=tokens, labels=tokens).loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(tiny_model, folder, steps, *, extras="self-distill", checkpoint=None, accumulate=1, **more):
    from mofo.trainers.lightning import ExtrasCallback

    L.seed_everything(0, verbose=False)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    callbacks = [ExtrasCallback(tokenizer, extras, DISTILL)] if extras else []
    module = Tuning(tiny_model, accumulate)
    settings = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    settings |= {"max_steps": steps, "default_root_dir": folder, "callbacks": callbacks}
    trainer = L.Trainer(**settings, accumulate_grad_batches=accumulate, **more)
    trainer.fit(module, torch.utils.data.DataLoader(range(100)), ckpt_path=checkpoint)
    return module


def changes(module, tiny_model):
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    return [p.detach() - q.detach() for p, q in zip(module.model.parameters(), base.parameters(), strict=True)]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_step_has_the_gradients_of_task_and_extra_once(tiny_model, tmp_path, accumulate):
    moved = fit(tiny_model, tmp_path / "moved", 2, accumulate=accumulate)

    module = Tuning(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    part, folder = SelfDistill(**DISTILL), tmp_path / "by-hand"
    setup = Setup({}, tokenizer, torch.device("cpu"), 0, 2, 1, [], folder, folder)
    part.prepare(module.model, setup)
    for step in range(2):
        module.zero_grad()
        for number in range(accumulate):
            tokens = module.batches[step * accumulate + number]
            (module.model(input_ids=tokens, labels=tokens).loss / accumulate).backward()
        penalty = part.penalty(module.model, step, setup)
        penalty.backward()
        with torch.no_grad():
            for p in module.model.parameters():
                p -= p.grad
    assert penalty > 1e-2
    for ours, expected in zip(changes(moved, tiny_model), changes(module, tiny_model), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)


def test_extra_is_clipped_with_the_rest(tiny_model, tmp_path):
    module = fit(tiny_model, tmp_path, 1, gradient_clip_val=0.001)
    moved = torch.cat([change.flatten() for change in changes(module, tiny_model)]).norm()
    assert moved.item() == pytest.approx(0.001, rel=1e-2)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_resumed_training_keeps_to_the_same_base(tiny_model, tmp_path, precision):
    more = {"extras": {"self-distill": {}}, "precision": precision}
    whole = fit(tiny_model, tmp_path / "whole", 4, **more)
    fit(tiny_model, tmp_path / "begun", 2, **more)
    (checkpoint,) = (tmp_path / "begun").rglob("*.ckpt")
    resumed = fit(tiny_model, tmp_path / "begun", 4, checkpoint=checkpoint, **more)
    pairs = list(zip(whole.parameters(), resumed.parameters(), strict=True))
    assert all(torch.equal(one, other) for one, other in pairs)
    with pytest.raises(UserError, match="which says what it began with, is not there or damaged; resume in the folder"):
        fit(tiny_model, tmp_path / "elsewhere", 4, checkpoint=checkpoint, **more)


def test_bank_has_a_text_for_each_place_and_stays_when_steps_are_added(tiny_model, tmp_path):
    many = {"self-distill": {"texts": 512}}
    fit(tiny_model, tmp_path, 2, extras=many)
    (bank,) = (tmp_path / "mofo").rglob("self-distill-*.safetensors")
    assert len(load_file(bank)["ids"]) == 2 * 2
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    fit(tiny_model, tmp_path, 4, extras=many, checkpoint=checkpoint)
    assert list((tmp_path / "mofo").rglob("self-distill-*.safetensors")) == [bank]


DDP = """
import sys, torch
from pathlib import Path
from trainers.test_extras_lightning import fit
module = fit(sys.argv[1], sys.argv[2], 3, devices=2, strategy="ddp", use_distributed_sampler=False)
torch.save(list(module.parameters()), Path(sys.argv[2]) / f"rank{module.global_rank}.pt")
"""


@pytest.mark.full
@pytest.mark.processes
def test_processes_of_ddp_step_as_one(tiny_model, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(DDP)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, script, tiny_model, tmp_path]
    done = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in (0, 1))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    alone = fit(tiny_model, tmp_path / "alone", 3)  # both processes have its batches
    for one, other in zip(first, alone.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ("adamw+self-distill", "names an optimizer, which is for configure_optimizers"),
        ("l2", "l2 needs more than forward and backward passes"),
        ("dft", "dft needs more"),
        ("replay", "replay is for mofo compare alone"),
        ("self-distil", r"did you mean self-distill\?"),
    ],
)
def test_extras_that_lightning_cannot_have_are_refused(tiny_model, tmp_path, extras, message):
    from mofo.trainers.lightning import ExtrasCallback

    with pytest.raises(UserError, match=message):
        ExtrasCallback(None, extras)

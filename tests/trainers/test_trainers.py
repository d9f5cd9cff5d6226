"""MoFO inside the trainers that people use, by their public arguments alone."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

import mofo
from mofo import CPUOffload, MoFO
from mofo.optim.state import int8

FRACTION = 0.1


def load(tiny_model, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype)


def settings(output, more):
    """Five steps of four rows; nothing is written but what a test asks for."""
    defaults: dict[str, Any] = {
        "output_dir": str(output),
        "max_steps": 5,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return defaults | more


@dataclass
class Workshop:
    """Makes trainers of one kind for the tiny model."""

    kind: str
    model: str
    rows: list[dict[str, str]]
    output: Path

    def trainer(self, *, dtype=torch.float32, optimizer=None, output=None, **more):
        optimizer = optimizer or (MoFO, {"lr": 0.01, "fraction": FRACTION})
        tokenizer = AutoTokenizer.from_pretrained(self.model)
        texts = [f"{row['question']} {row['answer']}" for row in self.rows]
        args = settings(output or self.output, more)
        if self.kind == "sft":
            return SFTTrainer(
                model=load(self.model, dtype),
                args=SFTConfig(**args),
                train_dataset=Dataset.from_dict({"text": texts}),
                processing_class=tokenizer,
                optimizer_cls_and_kwargs=optimizer,
            )
        return Trainer(
            model=load(self.model, dtype),
            args=TrainingArguments(**args),
            train_dataset=Dataset.from_dict(dict(tokenizer(texts))),
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
            optimizer_cls_and_kwargs=optimizer,
        )


@pytest.fixture(params=["sft", "transformers"])
def workshop(request, tiny_model, sums, tmp_path):
    return Workshop(request.param, tiny_model, sums, tmp_path / "out")


def copies(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(model, base):
    return {name: int((p != base[name]).sum()) for name, p in model.named_parameters()}


def k_of(base, fraction=FRACTION):
    return {name: max(1, math.floor(fraction * p.numel())) for name, p in base.items()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_trainer_learns_with_mofo_as_its_optimizer(workshop):
    trainer = workshop.trainer(max_steps=15)
    trainer.train()
    assert type(trainer.optimizer.optimizer) is MoFO
    assert losses(trainer)[-1] < losses(trainer)[0] - 0.5


def test_one_step_moves_exactly_k_entries_of_each_tensor(workshop):
    trainer = workshop.trainer(max_steps=1)
    base = copies(trainer.model)
    trainer.train()
    assert moved(trainer.model, base) == k_of(base)


def test_accumulated_batches_are_one_step(workshop):
    trainer = workshop.trainer(max_steps=1, gradient_accumulation_steps=3)
    base = copies(trainer.model)
    trainer.train()
    assert moved(trainer.model, base) == k_of(base)


def test_fraction_1_trains_as_adamw_does(workshop):
    ours = workshop.trainer(optimizer=(MoFO, {"lr": 0.01, "fraction": 1.0, "foreach": True}), weight_decay=0.1)
    theirs = workshop.trainer(optimizer=(torch.optim.AdamW, {"lr": 0.01, "foreach": True}), weight_decay=0.1)
    ours.train()
    theirs.train()
    assert equal(copies(ours.model), copies(theirs.model))


def test_weight_decay_spares_norms_as_for_adamw(workshop):
    trainer = workshop.trainer(max_steps=1, weight_decay=0.1)
    trainer.train()
    decayed, spared = trainer.optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert all(p.dim() == 1 for p in spared["params"])
    assert all(p.dim() == 2 for p in decayed["params"])


def test_schedule_sets_the_learning_rate(workshop):
    trainer = workshop.trainer(max_steps=4, lr_scheduler_type="linear", warmup_steps=2)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([0.0, 0.005, 0.01, 0.005])
    assert all(group["lr"] == 0.0 for group in trainer.optimizer.param_groups)


def test_gradients_are_clipped_before_the_step(workshop):
    trainer = workshop.trainer(max_steps=1, max_grad_norm=0.001)
    trainer.train()
    moments = [state["exp_avg"] for state in trainer.optimizer.state.values()]
    norm = torch.cat([m.flatten() for m in moments]).norm().item()
    assert norm == pytest.approx((1 - 0.9) * 0.001, rel=1e-3)


def test_bf16_autocast_keeps_float32_parameters_and_moments(workshop):
    trainer = workshop.trainer(max_steps=1, bf16=True)
    base = copies(trainer.model)
    trainer.train()
    assert moved(trainer.model, base) == k_of(base)
    for p, state in trainer.optimizer.state.items():
        assert p.dtype == state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("score", ["momentum", "random"])
def test_resumed_run_equals_an_uninterrupted_one(workshop, tmp_path, dtype, score):
    more = {
        "dtype": dtype,
        "optimizer": (MoFO, {"lr": 0.01, "fraction": FRACTION, "score": score}),
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.1,
    }
    whole = workshop.trainer(**more)
    whole.train()
    shutil.copytree(workshop.output / "checkpoint-2", tmp_path / "again" / "checkpoint-2")
    resumed = workshop.trainer(**more, output=tmp_path / "again")
    resumed.train(resume_from_checkpoint=True)
    assert equal(copies(resumed.model), copies(whole.model))
    for key in ("exp_avg", "exp_avg_sq"):
        states = zip(resumed.optimizer.state.values(), whole.optimizer.state.values(), strict=True)
        assert all(torch.equal(a[key], b[key]) and a[key].dtype == torch.float32 for a, b in states)


def test_resumed_run_with_moments_in_8_bits_equals_an_uninterrupted_one(workshop, tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "SMALLEST_TENSOR", 256)  # the model is tiny
    monkeypatch.setattr(int8, "SMALLEST_BLOCK", 16)
    optimizer = (MoFO, {"lr": 0.01, "fraction": FRACTION, "state_dtype": "int8"})
    more = {"optimizer": optimizer, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = workshop.trainer(**more)
    base = copies(whole.model)
    whole.train()
    shutil.copytree(workshop.output / "checkpoint-2", tmp_path / "again" / "checkpoint-2")
    resumed = workshop.trainer(**more, output=tmp_path / "again")
    resumed.train(resume_from_checkpoint=True)
    assert equal(copies(resumed.model), copies(whole.model))
    assert not equal(copies(resumed.model), base)
    assert any(int8.is_int8(state["exp_avg"]) for state in resumed.optimizer.state.values())


def test_offloaded_optimizer_trains_to_the_bit_as_on_the_cpu_and_resumes(workshop, tmp_path):
    more = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "cosine"}
    more |= {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1}
    plain = workshop.trainer(**more)
    plain.train()
    for again in (False, True):
        offload = (CPUOffload, {"optimizer_class": MoFO, "lr": 0.01, "fraction": FRACTION})
        trainer = workshop.trainer(**more, optimizer=offload, output=tmp_path / "again")
        trainer.train(resume_from_checkpoint=str(tmp_path / "again" / "checkpoint-2") if again else None)
        assert type(trainer.optimizer.optimizer) is CPUOffload
        assert equal(copies(trainer.model), copies(plain.model))


def test_run_begun_with_adamw_continues_with_mofo(workshop):
    more = {"save_strategy": "steps", "save_steps": 1}
    first = workshop.trainer(max_steps=1, optimizer=(torch.optim.AdamW, {"lr": 0.01}), **more)
    first.train()
    base = copies(first.model)
    second = workshop.trainer(max_steps=2, **more)
    second.train(resume_from_checkpoint=True)
    assert type(second.optimizer.optimizer) is MoFO
    assert moved(second.model, base) == k_of(base)


def test_parameter_groups_go_into_any_trainer(tiny_model, sums, tmp_path):
    model = load(tiny_model)
    base = copies(model)
    optimizer = MoFO(mofo.param_groups(model, fraction=FRACTION), lr=0.01)
    rows = [{"prompt": r["question"], "chosen": r["answer"], "rejected": "I do not know."} for r in sums]
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(**settings(tmp_path, {"max_steps": 1})),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        optimizers=(optimizer, None),
    )
    trainer.train()
    assert trainer.optimizer.optimizer is optimizer
    assert moved(model, base) == k_of(base)


def test_lora_adapters_are_filtered_and_the_base_keeps_its_bits(tiny_model, sums, tmp_path):
    peft = pytest.importorskip("peft")
    trainer = SFTTrainer(
        model=load(tiny_model),
        args=SFTConfig(**settings(tmp_path, {"max_steps": 2})),
        train_dataset=Dataset.from_list([{"text": row["answer"]} for row in sums]),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=peft.LoraConfig(r=4, task_type="CAUSAL_LM"),
        optimizer_cls_and_kwargs=(MoFO, {"lr": 0.01, "fraction": FRACTION}),
    )
    base = copies(trainer.model)
    trainer.train()
    changed = moved(trainer.model, base)
    assert all(count == 0 for name, count in changed.items() if "lora_" not in name)
    b = {name: count for name, count in changed.items() if "lora_B" in name}  # B is 0 at first, and A's gradient too
    k = k_of(base)
    assert b
    assert all(k[name] <= count <= 2 * k[name] for name, count in b.items())

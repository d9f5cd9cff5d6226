"""MoFO in trl's DPO, with the log-probabilities of the reference computed before the training.

python examples/trl_dpo.py [--model MODEL] [--output FOLDER] [--steps 20]
"""

import argparse

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from mofo import MoFO
from mofo.trainers import MoFOCallback

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
parser.add_argument("--output", default="tuned")
parser.add_argument("--steps", type=int, default=20)
cli = parser.parse_args()

pairs = [(a, b) for a in range(2, 10) for b in range(2, 10)]
rows = [{"prompt": f"What is {a} times {b}?", "chosen": f" {a * b}.", "rejected": f" {a + b}."} for a, b in pairs]
trainer = DPOTrainer(
    model=cli.model,
    args=DPOConfig(
        output_dir=cli.output,
        max_steps=cli.steps,
        per_device_train_batch_size=4,
        precompute_ref_log_probs=True,  # no second copy of the model in memory
        bf16=torch.cuda.is_available(),
        logging_steps=1,
        report_to="none",
    ),
    train_dataset=Dataset.from_list(rows),
)
# DPOTrainer does not take this as an argument. (An optimizer in `optimizers=` would not know the adapters that a
# `peft_config` adds, and so train nothing.)
trainer.optimizer_cls_and_kwargs = (MoFO, {"lr": 1e-5, "fraction": 0.15})
MoFOCallback.attach(trainer)
trainer.train()
trainer.save_model()

"""MoFO in trl's supervised fine-tuning; `mofo sft` is the same as a command.

python examples/trl_sft.py [--model MODEL] [--output FOLDER] [--steps 20]
"""

import argparse

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from mofo import MoFO
from mofo.trainers import MoFOCallback

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
parser.add_argument("--output", default="tuned")
parser.add_argument("--steps", type=int, default=20)
cli = parser.parse_args()

pairs = [(a, b) for a in range(2, 10) for b in range(2, 10)]
rows = [{"prompt": f"What is {a} times {b}?", "completion": f" {a} times {b} is {a * b}."} for a, b in pairs]
trainer = SFTTrainer(
    model=cli.model,
    args=SFTConfig(
        output_dir=cli.output,
        max_steps=cli.steps,
        per_device_train_batch_size=4,
        bf16=torch.cuda.is_available(),  # compute in bfloat16; parameters and moments stay float32
        logging_steps=1,
        report_to="none",
    ),
    train_dataset=Dataset.from_list(rows),
    optimizer_cls_and_kwargs=(MoFO, {"lr": 2e-5, "fraction": 0.15}),  # this lr, not that of SFTConfig
)
MoFOCallback.attach(trainer)
trainer.train()
trainer.save_model()

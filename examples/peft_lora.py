"""MoFO on LoRA adapters of peft: the filter acts within each adapter matrix, the base keeps its bits.

python examples/peft_lora.py [--model MODEL] [--output FOLDER] [--steps 20]
"""

import argparse

import torch
from datasets import Dataset
from peft import LoraConfig
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
        bf16=torch.cuda.is_available(),
        logging_steps=1,
        report_to="none",
    ),
    train_dataset=Dataset.from_list(rows),
    # modules_to_save: modules whose names end so, here all norms, are copied and trained; MoFO filters the copies, too
    peft_config=LoraConfig(r=8, target_modules="all-linear", modules_to_save=["norm"], task_type="CAUSAL_LM"),
    optimizer_cls_and_kwargs=(MoFO, {"lr": 2e-4, "fraction": 0.15}),
)
MoFOCallback.attach(trainer)  # its distance is that of the adapters from their first values
trainer.train()
trainer.save_model()

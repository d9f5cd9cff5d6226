"""MoFO in the Trainer of transformers, with a log of what it moves.

python examples/transformers_trainer.py [--model MODEL] [--output FOLDER] [--steps 20]
"""

import argparse

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

from mofo import MoFO
from mofo.trainers import MoFOCallback

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
parser.add_argument("--output", default="tuned")
parser.add_argument("--steps", type=int, default=20)
cli = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(cli.model)
texts = [f"{a} times {b} is {a * b}.{tokenizer.eos_token}" for a in range(2, 10) for b in range(2, 10)]
trainer = Trainer(
    # float32: many checkpoints are bfloat16, in which most updates of this size would be rounded away
    model=AutoModelForCausalLM.from_pretrained(cli.model, dtype=torch.float32),
    args=TrainingArguments(
        output_dir=cli.output, max_steps=cli.steps, per_device_train_batch_size=4, logging_steps=1, report_to="none"
    ),
    train_dataset=Dataset.from_dict(dict(tokenizer(texts))),
    data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    optimizer_cls_and_kwargs=(MoFO, {"lr": 2e-5, "fraction": 0.15}),  # this lr, not that of TrainingArguments
)
MoFOCallback.attach(trainer)
trainer.train()
trainer.save_model()

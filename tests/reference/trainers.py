"""A small trainer of transformers or trl, for tests of what goes into one."""

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

ROWS = [[1, 7, 9, 11, 5], [1, 8, 6, 4, 2], [1, 30, 20, 10, 3], [1, 40, 41, 42, 43]]
"""What is learned where no questions are given."""


def make_trainer(
    folder,
    output,
    sums=None,
    *,
    kind=Trainer,
    wrap=None,
    dtype=torch.float32,
    optimizer=None,
    callbacks=(),
    **more,
):
    """Return a trainer that has not begun: four steps of four questions with answers, or of two of `ROWS`.

    Args:
        folder: The model and its tokenizer.
        output: Where it saves, if `more` asks for that.
        sums: Questions with answers.
        kind: `Trainer` or `SFTTrainer`.
        wrap: Makes another model of it, such as one with adapters.
        dtype: What the weights are kept in.
        optimizer: Class and settings of an optimizer other than the trainer's own.
        callbacks: For the trainer.
        more: Arguments of the training.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [f"{row['question']} {row['answer']}" for row in sums or ()]
    data = Dataset.from_dict({"input_ids": tokenizer(texts)["input_ids"] if texts else ROWS})
    settings = {
        "output_dir": str(output),
        "max_steps": 4,
        "per_device_train_batch_size": 4 if texts else 2,
        "learning_rate": 0.01,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    is_sft = kind is SFTTrainer
    own = {} if is_sft else {"data_collator": DataCollatorForLanguageModeling(tokenizer, mlm=False)}
    trainer = kind(
        model=wrap(model) if wrap else model,
        args=(SFTConfig if is_sft else TrainingArguments)(**settings | more),
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer,
        callbacks=list(callbacks),
        **own,
    )
    trainer.optimizer_cls_and_kwargs = optimizer
    return trainer

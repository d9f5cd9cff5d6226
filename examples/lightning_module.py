"""MoFO in Lightning: configure_optimizers returns it, with groups made from the model.

python examples/lightning_module.py [--model MODEL] [--output FOLDER] [--steps 20]
"""

import argparse

import lightning as L
import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling

import mofo

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
parser.add_argument("--output", default="tuned")
parser.add_argument("--steps", type=int, default=20)
cli = parser.parse_args()


class Tuning(L.LightningModule):
    """A causal language model, fine-tuned with MoFO."""

    def __init__(self):
        super().__init__()
        # train(): Lightning leaves each module in the mode it has, and this loads in that of evaluation
        self.model = AutoModelForCausalLM.from_pretrained(cli.model, dtype=torch.float32).train()

    def training_step(self, batch, _):
        """The loss of one batch."""
        return self.model(**batch).loss

    def configure_optimizers(self):
        """MoFO; weight decay spares norms and biases."""
        groups = mofo.param_groups(self.model, fraction=0.15, weight_decay=0.01, decay_norms_and_biases=False)
        return mofo.MoFO(groups, lr=2e-5)


L.seed_everything(0)
tokenizer = AutoTokenizer.from_pretrained(cli.model)
texts = [f"{a} times {b} is {a * b}.{tokenizer.eos_token}" for a in range(2, 10) for b in range(2, 10)]
data = [{"input_ids": tokenizer(text)["input_ids"]} for text in texts]
loader = DataLoader(data, batch_size=4, collate_fn=DataCollatorForLanguageModeling(tokenizer, mlm=False))
module = Tuning()
trainer = L.Trainer(max_steps=cli.steps, default_root_dir=cli.output, gradient_clip_val=1.0, logger=False)
trainer.fit(module, loader)
module.model.save_pretrained(cli.output)
tokenizer.save_pretrained(cli.output)

"""Models in folders: what was tuned from another, and what a folder holds."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def moved(folder, *, by=1e-3, share=0.3, dtype=torch.float32, seed=0):
    """A model of a folder of which a share of the entries has moved, in another type."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += by * torch.randn_like(p) * (torch.rand_like(p) < share)
    return model.to(dtype)


def saved(model, folder, like, **how):
    """Save a model with the tokenizer of another."""
    model.save_pretrained(folder, **how)
    AutoTokenizer.from_pretrained(like).save_pretrained(folder)
    return str(folder)


def contents(folder):
    """The bytes of all files in a folder by name."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}

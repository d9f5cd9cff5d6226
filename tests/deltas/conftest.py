"""A base and models that were tuned from it, in folders."""

import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from reference.folders import moved, saved
from reference.workbench import sums, tiny_data, tiny_model  # noqa: F401


@pytest.fixture(scope="session")
def tuned(tiny_model, tmp_path_factory):
    """A tuned model's folder; do not write into it."""
    return saved(moved(tiny_model), tmp_path_factory.mktemp("tuned"), tiny_model)


@pytest.fixture(scope="session")
def adapter(tiny_model, tmp_path_factory):
    """A LoRA adapter's folder whose matrices are not zero; do not write into it."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    settings = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM"}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(**settings))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.normal_(std=0.1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    (folder / "README.md").unlink()
    return str(folder)


@pytest.fixture
def copy_of(tmp_path):
    """Copy a folder to write into."""

    def copied(folder, name="copy"):
        return str(shutil.copytree(folder, tmp_path / name))

    return copied

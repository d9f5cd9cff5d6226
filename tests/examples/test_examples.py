"""Each example runs as a user runs it, and MoFO is what moved the weights."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mofo.optim.rule.blocks import selected_count

ROOT = Path(__file__).parents[2]
FRACTION = 0.15


def run(*command, **environment):
    """Runs a module, or an example, from the repository, without the network; returns what it printed."""
    threads = {"OMP_NUM_THREADS": "1"}  # sums over several threads round differently
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **threads, **environment}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def moved(tuned, base):
    return {name: int((tuned[name] != base[name]).sum()) for name in base}


def k_of(tensors):
    return {name: selected_count(FRACTION, tensor.numel()) for name, tensor in tensors.items()}


def needs(package):
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


@needs("setuptools")
def test_method_of_a_package_is_known_once_it_is_installed(tiny_model, tmp_path):
    source = shutil.copytree(ROOT / "examples/own_method", tmp_path / "source")  # a build writes beside the source
    pip = ("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    run(*pip, "--target", tmp_path, source)
    printed = run("-m", "mofo.cli", "methods", "frozen-embeddings", PYTHONPATH=str(tmp_path))
    assert "Settings:\n  norms = False" in printed
    code = f"""
from mofo.methods.method import make_method
from transformers import AutoModelForCausalLM
extra = make_method({{"mofo": {{}}, "frozen-embeddings": {{"norms": True}}}}).extras[0]
model = extra.prepare(AutoModelForCausalLM.from_pretrained({str(tiny_model)!r}), None)
print("trained:", *(name for name, parameter in model.named_parameters() if parameter.requires_grad))
"""
    trained = run("-c", code, PYTHONPATH=str(tmp_path)).split("trained: ")[1].splitlines()[0].split()
    assert trained
    assert not [name for name in trained if "embed_tokens" in name or "norm" in name]


@pytest.mark.processes
@pytest.mark.parametrize(
    "example",
    [
        "transformers_trainer",
        "trl_sft",
        "trl_dpo",
        pytest.param("lightning_module", marks=needs("lightning")),
    ],
)
def test_one_step_moves_exactly_k_entries_of_each_tensor(tiny_model, tmp_path, example):
    printed = run(f"examples/{example}.py", "--model", tiny_model, "--output", tmp_path, "--steps", 1)
    base = weights(tiny_model)
    assert moved(weights(tmp_path), base) == k_of(base)
    assert ("mofo/selected" in printed) == (example != "lightning_module")


@pytest.mark.processes
def test_in_adapters_mofo_moves_k_entries_and_the_base_stays(tiny_model, tmp_path):
    run("examples/peft_lora.py", "--model", tiny_model, "--output", tmp_path, "--steps", 1)
    adapters = load_file(tmp_path / "adapter_model.safetensors")
    b = {name: tensor for name, tensor in adapters.items() if "lora_B" in name}  # 0 at first
    assert len(b) == 14
    assert {name: int(tensor.count_nonzero()) for name, tensor in b.items()} == k_of(b)
    copies = {name.split("base_model.model.")[1]: t for name, t in adapters.items() if "lora_" not in name}
    assert len(copies) == 5  # by modules_to_save
    base = {name: tensor for name, tensor in weights(tiny_model).items() if name in copies}
    assert moved(copies, base) == k_of(base)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.processes
@needs("litgpt")
def test_litgpt_takes_the_class_path(tiny_model, tmp_path):
    from litgpt import GPT, Config
    from litgpt.utils import save_config

    base, tuned = tmp_path / "base", tmp_path / "tuned"
    base.mkdir()
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": 270, "padded_vocab_size": 270}
    config = Config(name="tiny", block_size=256, **sizes)
    torch.save(GPT(config).state_dict(), base / "lit_model.pth")
    save_config(config, base)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(tiny_model) / file, base)
    steps = ["--train.max_steps", 2, "--train.lr_warmup_steps", 1]
    run("-m", "litgpt", "finetune_full", base, "--config", "examples/litgpt_mofo.yaml", "--out_dir", tuned, *steps)
    before = torch.load(base / "lit_model.pth")
    count, k = moved(torch.load(tuned / "final" / "lit_model.pth")["model"], before), k_of(before)
    rows = "transformer.wte.weight"  # only those in the batch have a gradient
    assert 0 < count.pop(rows) <= k.pop(rows)
    assert count == k  # in the first of the two steps the learning rate is 0


@pytest.mark.processes
@needs("axolotl")
def test_axolotl_trains_with_the_plugin(tiny_model, tmp_path):
    settings = ["--base-model", tiny_model, "--output-dir", tmp_path, "--dataset-prepared-path", tmp_path / "data"]
    command = ["-m", "axolotl.cli.train", "examples/axolotl_mofo.yaml", *settings, "--max-steps", "1"]
    printed = run(*command, AXOLOTL_DO_NOT_TRACK="1", MOFO_CACHE=str(tmp_path / "cache"))
    assert all(moved(weights(tmp_path), weights(tiny_model)).values())
    assert "forgotten/divergence" in printed
    assert list((tmp_path / "mofo").rglob("self-distill-*.safetensors"))

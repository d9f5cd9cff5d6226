"""`accelerate launch` with the files of examples/accelerate: killed and resumed, it ends as if it had not been.

Two processes with gloo on the CPU; ``reference/as_on_gpus.py`` tells accelerate that they are GPUs.
"""

import importlib.util
import itertools
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "accelerate"

# The plain Trainer with a model in bfloat16, whose moments are float32.
TRAINER = """
import sys
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from mofo import MoFO

model_folder, output, steps, resume = sys.argv[1:]
rows = torch.randint(0, 200, (64, 12), generator=torch.Generator().manual_seed(0)).tolist()
arguments = TrainingArguments(
    output, max_steps=int(steps), save_steps=2, per_device_train_batch_size=2, report_to="none", disable_tqdm=True,
    weight_decay=0.1,
)
trainer = Trainer(
    AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16),
    arguments,
    train_dataset=[{"input_ids": row, "labels": row} for row in rows],
    optimizer_cls_and_kwargs=(MoFO, {"lr": 0.01, "fraction": 0.1}),
)
trainer.train(resume_from_checkpoint=resume or None)
trainer.accelerator.wait_for_everyone()
trainer.accelerator.end_training()
"""


def command(config, script, *arguments, launch=()):
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", EXAMPLES / f"{config}.yaml"]
    accelerate += ["--num_processes", 2, "--mixed_precision", "no", "--main_process_port", 0, *launch]
    return [str(word) for word in (*accelerate, ROOT / "tests/reference/as_on_gpus.py", script, *arguments)]


class Run:
    """A training in a folder, launched as a user does."""

    def __init__(self, config, kind, model, data, folder, *, launch=(), more=()):
        self.folder, self.config, self.kind, self.launch, self.more = folder, config, kind, launch, more
        self.model, self.data = model, data

    def command(self, steps, resume=None):
        if self.kind == "trainer":
            script = self.folder.parent / "trainer.py"
            script.write_text(TRAINER)
            return command(self.config, script, self.model, self.folder, steps, resume or "", launch=self.launch)
        flags = {
            "model_name_or_path": self.model,
            "dataset_name": self.data,
            "output_dir": self.folder,
            "max_steps": steps,
            "save_steps": 2,
            "per_device_train_batch_size": 2,
            "learning_rate": 0.01,
            "weight_decay": 0.1,
            "bf16": False,
            "report_to": "none",
            **({"resume_from_checkpoint": resume} if resume else {}),
        }
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        return command(self.config, EXAMPLES / "sft.py", *words, *self.more, launch=self.launch)

    def to_the_end(self, steps, resume=None):
        return subprocess.run(self.command(steps, resume), capture_output=True, text=True, cwd=ROOT)

    def killed_at(self, checkpoint, steps):
        """Kill all processes as soon as there is a checkpoint; those that the launcher started outlive it otherwise."""
        with subprocess.Popen(self.command(steps), cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            while not (self.folder / f"checkpoint-{checkpoint}" / "trainer_state.json").exists():
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.005)
            for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                one.kill()
        assert not (self.folder / f"checkpoint-{steps}").exists()

    def result(self, steps):
        """Parameters and moments that the last checkpoint has, by name or number."""
        checkpoint = self.folder / f"checkpoint-{steps}"
        if (checkpoint / "optimizer_0").is_dir():
            for name in ("optimizer_0", "pytorch_model_fsdp_0"):
                dcp_to_torch_save(checkpoint / name, checkpoint / f"{name}.pt")
            model = torch.load(checkpoint / "pytorch_model_fsdp_0.pt")["model"]
            state = torch.load(checkpoint / "optimizer_0.pt")["optimizer"]["state"]
        elif (checkpoint / "optimizer.bin").exists():
            model = torch.load(checkpoint / "pytorch_model_fsdp.bin")
            state = torch.load(checkpoint / "optimizer.bin")["state"]
        elif (checkpoint / "optimizer.pt").exists():
            model = load_file(checkpoint / "model.safetensors")
            state = torch.load(checkpoint / "optimizer.pt")["state"]
        else:
            model = load_file(checkpoint / "model.safetensors")
            shards = sorted(checkpoint.glob(f"global_step{steps}/*optim_states.pt"))
            states = [torch.load(shard, weights_only=False)["optimizer_state_dict"] for shard in shards]
            state = dict(enumerate(itertools.chain(*(s["base_optimizer_state"]["state"].values() for s in states))))
        moments = {(name, key): one[key] for name, one in state.items() for key in ("exp_avg", "exp_avg_sq", "step")}
        return model, moments


@pytest.fixture
def _surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.fixture
def make_run(tiny_model, tiny_data, tmp_path, _surroundings):
    return lambda name, *what, **how: Run(*what, tiny_model, Path(tiny_data).parent, tmp_path / name, **how)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
FSDP1 = ("--fsdp_version", 1, "--fsdp_reshard_after_forward", "FULL_SHARD")
FSDP1 += ("--fsdp_cpu_ram_efficient_loading", "false", "--fsdp_sync_module_states", "false")  # which need a GPU
FULL = ("--fsdp_state_dict_type", "FULL_STATE_DICT")
ALLOWED = ("--on_flat", "per_piece")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("config", "kind", "how"),
    [
        pytest.param("ddp", "sft", {}, id="ddp-trl"),
        pytest.param("fsdp2", "sft", {}, id="fsdp2-trl"),
        pytest.param("fsdp2", "trainer", {}, id="fsdp2-Trainer-bf16"),
        pytest.param("fsdp2", "trainer", {"launch": FULL}, id="fsdp2-Trainer-bf16-full"),
        pytest.param("deepspeed", "sft", {"more": ALLOWED}, id="deepspeed-trl", marks=needs_deepspeed),
    ],
)
def test_killed_and_resumed_run_ends_as_if_it_had_not_been(make_run, config, kind, how):
    whole, killed = make_run("whole", config, kind, **how), make_run("killed", config, kind, **how)
    done = whole.to_the_end(12)
    assert done.returncode == 0, done.stderr
    killed.killed_at(4, steps=12)
    done = killed.to_the_end(12, resume=killed.folder / "checkpoint-2")
    assert done.returncode == 0, done.stderr
    (model, moments), (resumed_model, resumed_moments) = whole.result(12), killed.result(12)
    assert equal(model, resumed_model)
    assert equal(moments, resumed_moments)
    assert {moment.dtype for moment in moments.values()} == {torch.float32}
    assert {float(step) for (_, key), step in moments.items() if key == "step"} == {12}
    if kind == "trainer":
        assert {param.dtype for param in model.values()} == {torch.bfloat16}
    else:
        assert (whole.folder / "model.safetensors").exists()


def sft(model, data, folder, config, *launch, steps=4, **more):
    """`mofo sft` as two processes; saves half way."""
    flags = {
        "model_name_or_path": model,
        "dataset_name": data,
        "output_dir": folder,
        "max_steps": steps,
        "save_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.01,
        "max_grad_norm": 0,  # the norm of all gradients is summed up in another order
        "use_cpu": False,  # the processes stand for GPUs
        "bf16": False,
        "report_to": "none",
        **more,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    script = ROOT / "src/mofo/trainers/trl/script.py"
    return subprocess.run(command(config, script, "sft", *words, launch=launch), capture_output=True, text=True)


def saved(folder):
    """The weights that a training left, and not what accelerate saves a second time."""
    weights = load_file(folder / "model.safetensors")
    tied = weights.pop("lm_head.weight", None)
    assert tied is None or torch.equal(tied, weights["model.embed_tokens.weight"])
    return weights


DISTILL = {"method_settings": "self-distill.texts=4,self-distill.tokens=8"}


@pytest.mark.processes
@pytest.mark.usefixtures("_surroundings")
def test_sft_with_fsdp2_ends_with_the_model_of_ddp(tiny_model, tiny_data, tmp_path):
    for config in ("ddp", "fsdp2"):
        done = sft(tiny_model, tiny_data, tmp_path / config, config, method="mofo+self-distill", **DISTILL)
        assert done.returncode == 0, done.stderr
        assert "Trained with MoFO + self-distillation" in done.stdout
    assert equal(saved(tmp_path / "ddp"), saved(tmp_path / "fsdp2"))


@pytest.mark.full
@pytest.mark.processes
@pytest.mark.usefixtures("_surroundings")
def test_sharded_training_with_extras_resumes_to_the_same_bits(tiny_model, tiny_data, tmp_path):
    folder = tmp_path / "tuned"
    assert sft(tiny_model, tiny_data, folder, "fsdp2", **DISTILL).returncode == 0
    whole = saved(folder)
    (folder / "model.safetensors").unlink()
    checkpoint = {"resume_from_checkpoint": folder / "checkpoint-2"}
    done = sft(tiny_model, tiny_data, folder, "fsdp2", **DISTILL, **checkpoint)
    assert done.returncode == 0, done.stderr
    assert equal(saved(folder), whole)

    other = {"method_settings": "self-distill.texts=5,self-distill.tokens=8"}
    done = sft(tiny_model, tiny_data, folder, "fsdp2", **other, **checkpoint)
    assert done.returncode != 0
    assert "made from the base, is not there; resume with the settings" in done.stderr
    (folder / "mofo" / "beginning.json").unlink()
    done = sft(tiny_model, tiny_data, folder, "fsdp2", **DISTILL, **checkpoint)
    assert done.returncode != 0
    assert "which says what it began with, is not there or damaged" in done.stderr


@pytest.mark.processes
@pytest.mark.parametrize(
    ("config", "launch"),
    [
        pytest.param("fsdp2", FSDP1, id="fsdp1"),
        pytest.param("deepspeed", (), id="deepspeed", marks=needs_deepspeed),
    ],
)
def test_flat_parameters_are_refused_in_one_sentence_that_names_the_way_out(make_run, config, launch):
    run = make_run("refused", config, "sft", launch=launch)
    done = run.to_the_end(2)
    assert done.returncode != 0
    assert "NotImplementedError" in done.stderr
    assert 'accept it with on_flat="per_piece"' in done.stderr
    assert not list(run.folder.glob("checkpoint-*"))

"""AdamW, with self-distillation or without, and MoFO by preferences (DPO) and by rewards (GRPO): learned and forgotten.

Usage: python experiments/preferences/run.py dpo|grpo [--data FOLDER] [--output FOLDER] [--seeds 0,1,2] [--dry-run]

Each training is one command, `mofo dpo` or `mofo grpo`, which is printed; forgetting is measured along it. What has
ended is not run again, so that the same command goes on after an interruption. At the end results-dpo.json or
results-grpo.json is written beside this file.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from mofo.forgetting import load_forgetting
from mofo.training import load_training

HERE = Path(__file__).parent
RATES = {
    "adamw": (5e-6, 1e-5, 2e-5),
    "adamw+self-distill": (5e-6, 1e-5, 2e-5),
    "mofo": (1e-5, 2e-5, 4e-5),
}
COMMON = {
    "model_name_or_path": "smollm2-135m",
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
    "weight_decay": 0.0,
    "bf16": True,
    "save_strategy": "no",
    "logging_steps": 1,
    "report_to": "none",
    "probes": "divergence,text",
}
SETTINGS = {
    "dpo": {
        "max_steps": 32,
        "per_device_train_batch_size": 4,
        "max_length": 384,
        "test_split_size": 0.2,
        "eval_strategy": "steps",
        "eval_steps": 16,
        "probe_steps": 8,
    },
    "grpo": {
        "max_steps": 40,
        "per_device_train_batch_size": 16,
        "num_generations": 8,
        "max_completion_length": 48,
        "beta": 0.0,
        "probe_steps": 10,
    },
}
DATA = {"dpo": "pairs.jsonl", "grpo": "sums.jsonl"}
LAST = 8
"""Steps at the end over which what is learned is averaged, as each is measured on few rows."""


def command(objective, method, rate, seed, data, folder):
    """The command line of one training."""
    settings = {
        **COMMON,
        **SETTINGS[objective],
        "dataset_name": data / DATA[objective],
        "method": method,
        "learning_rate": rate,
        "seed": seed,
        "output_dir": folder,
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "mofo.cli", objective, *words]


def has_ended(folder):
    """Whether a training went to its end."""
    if not (folder / "mofo.json").exists():
        return False
    training, _ = load_training(folder)
    return training.steps == training.planned_steps


def measured(objective, folder):
    """What a training learned and what it forgot."""
    training, log = load_training(folder)
    watched = load_forgetting(folder)
    end = watched.marks[-1].point
    names = ("preferred", "margin") if objective == "dpo" else ("reward",)
    steps = [entry for entry in log if entry.loss is not None]
    found = {name: statistics.fmean(getattr(entry, name) for entry in steps[-LAST:]) for name in names}
    held_out = [entry.held_out_loss for entry in log if entry.held_out_loss is not None]
    return {
        "learned": found | ({"held_out_loss": held_out[-1]} if held_out else {}),
        "forgotten": {metric.source: metric.change(watched.base, end) for metric in watched.metrics if metric.headline},
        "tokens": training.tokens,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("objective", choices=["dpo", "grpo"])
    parser.add_argument("--data", type=Path, default=Path("runs/preferences-data"))
    parser.add_argument("--output", type=Path, default=Path("runs/preferences"))
    parser.add_argument("--seeds", default="0", help="seeds, separated by commas (default %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    arguments = parser.parse_args()
    rows = []
    for method, rates in RATES.items():
        for rate in rates:
            for seed in map(int, arguments.seeds.split(",")):
                folder = arguments.output / f"{arguments.objective}-{method}-lr{rate:g}-s{seed}"
                line = command(arguments.objective, method, rate, seed, arguments.data, folder)
                print(shlex.join(line), flush=True)
                if arguments.dry_run:
                    continue
                if not has_ended(folder):
                    subprocess.run(line, check=True)
                    for file in folder.glob("model*.safetensors"):  # 540 MB each, and never read
                        file.unlink()
                rows.append(
                    {"method": method, "learning_rate": rate, "seed": seed, **measured(arguments.objective, folder)}
                )
    if rows:
        described = {"settings": COMMON | SETTINGS[arguments.objective], "runs": rows}
        (HERE / f"results-{arguments.objective}.json").write_text(json.dumps(described, indent=1) + "\n")


if __name__ == "__main__":
    main()

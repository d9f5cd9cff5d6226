"""What MoFOCallback costs with a log at every step, and how far its estimates are from the exact values.

Usage: python benchmarks/callback_cost.py [--rows 4] [--length 128] [--steps 16] [--threads 1]

Trains SmolLM2-135M on generated problems with transformers' Trainer. In half of the steps, drawn at random, one of each
two neighbours, the callback is asleep; the ratio is taken within such a pair. The time within the callback is measured
apart, because the pairs differ by more than it. In a second training all values are compared with the exact ones, for
which the whole model is copied before each step. Needs 4 GB of memory.
"""

import argparse
import math
import random
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from common import about_this_run, write
from datasets import Dataset
from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments
from transformers import __version__ as transformers_version

from mofo import MoFO
from mofo.data.rows import load_rows
from mofo.measure.distance import movement
from mofo.models.load import load_model, resolve_model
from mofo.models.weights import Weights
from mofo.trainers import MoFOCallback
from mofo.trainers.sample import SAMPLE_SIZE, STRETCH

MODEL = "smollm2-135m"
QUARTILES = ("first_quartile", "median", "third_quartile")


class Timed(MoFOCallback):
    """Sleeps in one of each two steps; notes the time within the callback and the time of each step."""

    def __init__(self):
        super().__init__()
        self.awake, self.inside, self.steps = [], [], []

    def on_step_begin(self, args, state, control, **kwargs):
        """Draw whether the callback is awake in this step."""
        first = random.Random(state.global_step // 2).random() < 0.5
        self.awake.append(first == (state.global_step % 2 == 0))
        self.inside.append(0.0)
        self.began = time.perf_counter()

    def on_pre_optimizer_step(self, *event, **kwargs):
        """Read the sample, if awake."""
        self._timed(super().on_pre_optimizer_step, *event, **kwargs)
        self.moved_before = torch.zeros_like(self.sample.weights, dtype=torch.bool)  # for the whole of the work

    def on_optimizer_step(self, *event, **kwargs):
        """Compare, if awake."""
        self._timed(super().on_optimizer_step, *event, **kwargs)

    def on_step_end(self, *event, **kwargs):
        """Note the time of the step."""
        self.steps.append(time.perf_counter() - self.began)

    def _timed(self, work, *event, **kwargs):
        if self.awake[-1]:
            start = time.perf_counter()
            work(*event, **kwargs)
            self.inside[-1] += time.perf_counter() - start


class Exact(TrainerCallback):
    """Compares the whole model with a copy; comes after MoFOCallback."""

    def __init__(self, base):
        self.base, self.moved_before, self.values = base, None, []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Copy the model."""
        self.before = [p.detach().clone() for p in model.parameters()]

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Compare it with the copy."""
        params = dict(model.named_parameters())
        moved = [p.detach() != old for p, old in zip(params.values(), self.before, strict=True)]
        number = sum(int(m.sum()) for m in moved)
        values = {
            "mofo/moved": number / sum(m.numel() for m in moved),
            "mofo/distance": math.sqrt(sum(movement(self.base[name], p.detach()).square for name, p in params.items())),
        }
        if self.moved_before:
            both = sum(int((m & old).sum()) for m, old in zip(moved, self.moved_before, strict=True))
            values["mofo/overlap"] = both / number
        self.before, self.moved_before = None, moved
        self.values.append(values)


def make_trainer(arguments, folder, steps, callback, *others):
    model, tokenizer = load_model(MODEL)
    texts = [row["question"] + " " + row["answer"] for row in load_rows("reasoning-gym:gsm_symbolic", limit=256)]
    tokens = [token for text in texts for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    cuts = range(0, len(tokens) - arguments.length, arguments.length)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=arguments.rows,
            learning_rate=1e-4,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"input_ids": tokens[start : start + arguments.length]} for start in cuts]),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        optimizer_cls_and_kwargs=(MoFO, {"lr": 1e-4, "fraction": 0.15}),
        callbacks=list(others),
    )
    callback.first = True
    trainer.callback_handler.callbacks.insert(0, callback)
    return trainer


def measure_cost(arguments, folder):
    timed = Timed()
    trainer = make_trainer(arguments, folder, arguments.steps + 2, timed)
    trainer.train()
    rows = list(zip(timed.awake, timed.steps, timed.inside, strict=True))[2:]  # the first two warm up
    asleep = [seconds for awake, seconds, _ in rows if not awake]
    inside = [seconds for awake, _, seconds in rows if awake]
    ratios = []
    for pair in zip(rows[::2], rows[1::2], strict=True):
        (on,), (off,) = ([s for awake, s, _ in pair if awake is state] for state in (True, False))
        ratios.append(on / off)
    step = statistics.median(asleep)
    return {
        "sample": timed.sample.weights.numel(),
        "step_seconds_without": quartiles(asleep),
        "milliseconds_in_the_callback": quartiles([1000 * seconds for seconds in inside]),
        "percent_of_a_step": quartiles([100 * seconds / step for seconds in inside]),
        "ratio_with_to_without": quartiles(ratios),
    }


def measure_errors(arguments, folder):
    exact = Exact(Weights(resolve_model(MODEL)))
    trainer = make_trainer(arguments, folder, 8, MoFOCallback(), exact)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    steps = [
        {
            name: {"exact": true[name], "estimate": log[name], "relative_error": log[name] / true[name] - 1}
            for name in true
        }
        for log, true in zip(logs, exact.values, strict=True)
    ]
    largest = {
        name: max(abs(step[name]["relative_error"]) for step in steps if name in step)
        for name in ("mofo/moved", "mofo/overlap", "mofo/distance")
    }
    return {"largest_relative_error": largest, "steps": steps}


def quartiles(values):
    return dict(zip(QUARTILES, (round(v, 4) for v in statistics.quantiles(values, n=4)), strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    if arguments.steps % 2:
        parser.error("--steps must be even: the steps are compared in pairs")
    torch.set_num_threads(arguments.threads)
    with TemporaryDirectory() as folder:
        cost = measure_cost(arguments, folder)
        errors = measure_errors(arguments, folder)
    for name, value in cost.items():
        print(f"{name:<32}{value}")
    print(f"{'largest relative error':<32}{errors['largest_relative_error']}")
    result = {
        **about_this_run(),
        "model": MODEL,
        "trainer": f"Trainer of transformers {transformers_version}, float32",
        "threads": arguments.threads,
        "tokens": [arguments.rows, arguments.length],
        "steps": arguments.steps,
        "logging_steps": 1,
        "sample_at_most": SAMPLE_SIZE,
        "run": STRETCH,
        "cost": cost,
        "errors": errors,
    }
    write(result, Path(__file__).parent / "results" / "callback_cost-cpu.json")


if __name__ == "__main__":
    main()

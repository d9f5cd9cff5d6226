"""What ForgettingCallback costs for several sizes of a training step: at `every=50`, and as it paces itself.

Usage: python benchmarks/forgetting_cost.py [--steps 4] [--threads 1] [--every 50] [--model smollm2-135m]

Trains SmolLM2-135M with AdamW on rows of random tokens, as transformers' Trainer would, and measures divergence and
general text after each step. Steps and measurements alternate, and their CPU time is taken, so that other work on the
machine disturbs both alike. The share is what one measurement in `every` steps adds to their time. What the pace
without `every` makes of it is worked out from the two medians, over a training of 2000 steps.

A measurement reads 6112 tokens forwards, a step of n tokens reads them forwards and backwards, which is as much as
3n forwards: the share is about 6112 / (3n · every), if nearly all of a measurement is spent in the model, which is
printed.
Needs 3 GB of memory.
"""

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from common import about_this_run, write

from mofo.models.load import load_model
from mofo.trainers.pace import Pace
from mofo.trainers.watch import PROBES, Watch

SHAPES = ((4, 128), (8, 128), (8, 256), (8, 512))
"""Rows and tokens of a row in a step."""


def seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def in_the_model(model):
    """A list to which the CPU time of each of the model's forward passes is added."""
    began, found = [], []
    model.register_forward_pre_hook(lambda *_: began.append(time.process_time()))
    model.register_forward_hook(lambda *_: found.append(time.process_time() - began.pop()))
    return found


def paced(step_seconds, measurement_seconds, steps=2000):
    """After which steps a training is measured without `every`, and what that adds to its time."""
    now = 0.0
    pace = Pace(None, lambda: now)
    measured = []
    for step in range(1, steps + 1):
        now += step_seconds
        if pace.is_due(step):
            with pace.measuring():
                now += measurement_seconds
            measured.append(step)
    return {
        "steps": steps,
        "measured_after": measured,
        "share": len(measured) * measurement_seconds / (steps * step_seconds),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--model", default="smollm2-135m")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = load_model(options.model)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    generator = torch.Generator().manual_seed(0)
    watch = Watch(PROBES, 1)
    passes = in_the_model(model)
    results = []
    with TemporaryDirectory() as folder:
        arguments = {"step": 0, "resumable": False, "precision": ""}
        base = seconds(lambda: watch.begin(model, tokenizer, Path(folder), **arguments))
        number = 0

        def measure(number):
            passes.clear()
            watch.measure(model, number)
            watch.write()

        def step(tokens):
            model(input_ids=tokens, labels=tokens).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        for rows, length in SHAPES:
            training, measuring, forwards = [], [], []
            for repeat in range(options.steps + 1):
                tokens = torch.randint(0, model.config.vocab_size, (rows, length), generator=generator)
                number += 1
                times = seconds(lambda: step(tokens)), seconds(lambda: measure(number))  # noqa: B023
                if repeat:  # the first of a shape is slower
                    training.append(times[0])
                    measuring.append(times[1])
                    forwards.append(sum(passes) / times[1])
            one, other = statistics.median(training), statistics.median(measuring)
            own = paced(one, other)
            results.append(
                {
                    "rows": rows,
                    "length": length,
                    "step_seconds": training,
                    "measurement_seconds": measuring,
                    "share_in_the_model": statistics.median(forwards),
                    "share": other / (options.every * one),
                    "by_default": own,
                }
            )
            print(
                f"{rows} x {length} tokens a step: step {one:.2f} s, measurement {other:.2f} s of CPU time "
                f"({results[-1]['share_in_the_model']:.0%} in the model): {results[-1]['share']:.2%} at "
                f"every={options.every}; by default {own['share']:.2%}, {len(own['measured_after'])} measurements in "
                f"{own['steps']} steps",
                flush=True,
            )
    about = about_this_run() | {"model": options.model, "probes": list(PROBES), "every": options.every}
    file = Path(__file__).parent / "results" / "forgetting_cost-cpu.json"
    write(about | {"base_seconds": base, "results": results}, file)


if __name__ == "__main__":
    main()

"""What ForgettingCallback costs at `every=50`, for several sizes of a training step.

Usage: python benchmarks/forgetting_cost.py [--steps 4] [--threads 1] [--every 50]

Trains SmolLM2-135M with AdamW on rows of random tokens, as transformers' Trainer would, and measures divergence and
general text after each step. Steps and measurements alternate, and their CPU time is taken, so that other work on the
machine disturbs both alike. The share is what one measurement in `every` steps adds to their time.
"""

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from common import about_this_run, write

from mofo.models.load import load_model
from mofo.trainers.watch import PROBES, Watch

MODEL = "smollm2-135m"
SHAPES = ((4, 128), (8, 128), (8, 512))
"""Rows and tokens of a row in a step."""


def seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = load_model(MODEL)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    generator = torch.Generator().manual_seed(0)
    watch = Watch(PROBES, 1)
    results = []
    with TemporaryDirectory() as folder:
        arguments = {"step": 0, "resumable": False, "precision": ""}
        base = seconds(lambda: watch.begin(model, tokenizer, Path(folder), **arguments))
        number = 0

        def step(tokens):
            model(input_ids=tokens, labels=tokens).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        for rows, length in SHAPES:
            training, measuring = [], []
            for repeat in range(options.steps + 1):
                tokens = torch.randint(0, 49152, (rows, length), generator=generator)
                number += 1
                times = seconds(lambda: step(tokens)), seconds(lambda: watch.measure(model, number))  # noqa: B023
                if repeat:  # the first of a shape is slower
                    training.append(times[0])
                    measuring.append(times[1])
            one, other = statistics.median(training), statistics.median(measuring)
            results.append(
                {
                    "rows": rows,
                    "length": length,
                    "step_seconds": training,
                    "measurement_seconds": measuring,
                    "share": other / (options.every * one),
                }
            )
            print(
                f"{rows} x {length} tokens a step: step {one:.2f} s, measurement {other:.2f} s of CPU time: "
                f"{results[-1]['share']:.2%} at every={options.every}",
                flush=True,
            )
    about = about_this_run() | {"model": MODEL, "probes": list(PROBES), "every": options.every}
    file = Path(__file__).parent / "results" / "forgetting_cost-cpu.json"
    write(about | {"base_seconds": base, "results": results}, file)


if __name__ == "__main__":
    main()

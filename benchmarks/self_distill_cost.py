"""What self-distillation adds to a training step of SmolLM2-135M, for several sizes of the step and of `every`.

Usage: python benchmarks/self_distill_cost.py [--steps 5] [--threads 1]

Steps with AdamW on rows of random tokens, in bfloat16 autocast as `mofo sft` trains, and the term's own forward and
backward pass alternate. Their CPU time is taken, so that other work on the machine disturbs both alike. The share is
what the term adds to the time of a step; with `every=N` it is in every Nth step alone. The bank of text that the base
writes before the training is timed once.
"""

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from common import about_this_run, write

from mofo.methods.part import Setup
from mofo.methods.self_distill import SelfDistill
from mofo.models.load import load_model

MODEL = "smollm2-135m"
SHAPES = ((5, 214), (8, 256), (16, 256))
"""Rows and tokens of a row in a step: that of the trials in docs/evidence.md first."""
EVERY = (1, 2, 4)


def seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def setup_in(folder, tokenizer):
    """What the part may know of a run; it uses the tokenizer, the seed and the folders."""
    here = Path(folder)
    return Setup({}, tokenizer, torch.device("cpu"), seed=0, steps=100, batch=8, rows=[], folder=here, shared=here)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = load_model(MODEL)
    part = SelfDistill()
    generator = torch.Generator().manual_seed(0)
    rows = []
    with TemporaryDirectory() as folder:
        setup = setup_in(folder, tokenizer)
        with torch.autocast("cpu", torch.bfloat16):
            bank = seconds(lambda: part.prepare(model, setup))
        print(f"the bank: {bank:.1f} s of CPU time, once", flush=True)
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

        def step(tokens):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        def term(number):
            with torch.autocast("cpu", torch.bfloat16):
                penalty = part.penalty(model, number, setup)
            penalty.backward()

        optimizer.zero_grad()
        for batch, length in SHAPES:
            steps, terms = [], []
            for repeat in range(options.steps + 1):
                tokens = torch.randint(0, 49152, (batch, length), generator=generator)
                taken = seconds(lambda: step(tokens)), seconds(lambda: term(repeat))  # noqa: B023
                optimizer.zero_grad()
                if repeat:  # the first of a shape is slower
                    steps.append(taken[0])
                    terms.append(taken[1])
            shares = [added / alone for alone, added in zip(steps, terms, strict=True)]
            share, spread = statistics.median(shares), statistics.stdev(shares)
            rows.append(
                {
                    "rows": batch,
                    "length": length,
                    "step_seconds": steps,
                    "term_seconds": terms,
                    "share": {str(every): share / every for every in EVERY},
                    "share_deviation": spread,
                }
            )
            added = ", ".join(f"{share / every:.1%} with every={every}" for every in EVERY)
            print(f"{batch} x {length} tokens a step: the term adds {added} (±{spread:.1%} at every=1)", flush=True)
    about = about_this_run() | {"model": MODEL, "settings": {"per_step": part.per_step, "tokens": part.tokens}}
    file = Path(__file__).parent / "results" / "self_distill_cost-cpu.json"
    write(about | {"threads": options.threads, "bank_seconds": bank, "results": rows}, file)


if __name__ == "__main__":
    main()

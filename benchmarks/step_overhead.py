"""Time of a step of many small tensors, where calls and checks cost more than arithmetic: MoFO and torch's AdamW.

Usage: python benchmarks/step_overhead.py [--threads 1] [--repeats 41] [--output FILE]

Two models: 1000 tensors of 1000 entries, and the 420 tensors of a LoRA (r 16) on all linear layers of SmolLM2-135M. In
every round each contender makes one step on gradients in new memory, as after `zero_grad()`, one after the other in an
order that changes, and the ratio to fused AdamW is taken within the round. Beside the time of the clock there is that
of the processor, which other processes of a busy machine hardly change.
"""

import argparse
import random
import statistics
import time
from pathlib import Path

import torch
from common import BASELINE, about_this_run, make_params, write

from mofo import MoFO

RANK = 16
LINEAR = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]  # (out, in)
ADAPTER = [shape for out, in_ in LINEAR for shape in ((RANK, in_), (out, RANK))]
MODELS = {"1000 tensors of 1000 entries": [(1000,)] * 1000, "LoRA r 16 on SmolLM2-135M": ADAPTER * 30}
FRACTIONS = (0.05, 0.15)


def contenders():
    """A constructor for each contender, by name."""
    made = {
        BASELINE: lambda params: torch.optim.AdamW(params, fused=True),
        "AdamW": torch.optim.AdamW,
    }
    for fraction in FRACTIONS:
        made[f"MoFO α={fraction}"] = lambda params, f=fraction: MoFO(params, fraction=f)
    return made


def measure(shapes, repeats, warmup=3):
    """Seconds of each contender's step in every round: by the clock, and of the processor."""
    generator = torch.Generator().manual_seed(1)
    ready = {}
    for name, make in contenders().items():
        params = make_params(shapes)
        ready[name] = make(params), params
    clock, processor = ({name: [] for name in ready} for _ in range(2))
    for round_ in range(warmup + repeats):
        for name, (optimizer, params) in random.Random(round_).sample(sorted(ready.items()), len(ready)):
            for param in params:
                param.grad = torch.randn(param.shape, generator=generator)
            times = time.perf_counter(), time.process_time()
            optimizer.step()
            taken = time.perf_counter() - times[0], time.process_time() - times[1]
            optimizer.zero_grad()
            if round_ >= warmup:
                clock[name].append(taken[0])
                processor[name].append(taken[1])
    return clock, processor


def summary(clock, processor, tensors):
    """One row for each contender."""
    rows = []
    for name in clock:
        row = {"contender": name}
        for what, seconds in (("clock", clock), ("processor", processor)):
            ratios = [own / other for own, other in zip(seconds[name], seconds[BASELINE], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
            row[what] = {
                "microseconds_per_tensor": round(1e6 * statistics.median(seconds[name]) / tensors, 2),
                "ratio_to_fused_adamw": round(middle, 3),
                "quartiles": [round(low, 3), round(high, 3)],
            }
        rows.append(row)
    return rows


def print_table(rows):
    print(f"{'contender':<16}{'':>12}{'µs a tensor':>14}{'× AdamW fused':>16}{'quartiles':>18}")
    for row in rows:
        for what in ("clock", "processor"):
            found = row[what]
            low, high = found["quartiles"]
            print(
                f"{row['contender']:<16}{what:>12}{found['microseconds_per_tensor']:>14.2f}"
                f"{found['ratio_to_fused_adamw']:>16.2f}{f'{low:.2f} – {high:.2f}':>18}"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--repeats", type=int, default=41, help="rounds that count (default 41)")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "step_overhead-cpu.json", help="JSON file"
    )
    arguments = parser.parse_args()
    runs = []
    for threads in sorted(set(arguments.threads)):
        torch.set_num_threads(threads)
        for model, shapes in MODELS.items():
            rows = summary(*measure(shapes, arguments.repeats), len(shapes))
            print(f"{model}, {threads} thread{'s' if threads > 1 else ''}")
            print_table(rows)
            runs.append({"model": model, "tensors": len(shapes), "threads": threads, "rows": rows})
    write({**about_this_run(), "repeats": arguments.repeats, "runs": runs}, arguments.output)


if __name__ == "__main__":
    main()

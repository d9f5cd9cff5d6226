"""Step time against the number of parameters, in one tensor and in a thousand: MoFO and fused AdamW, paired.

Usage: python benchmarks/scaling.py [--threads 1 2] [--repeats 7] [--largest 300000000]

Before each step a buffer larger than the caches is written, so that small models are measured as they are met after a
backward pass: out of the cache. The figure is nanoseconds a parameter, the median over the rounds.
"""

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

import torch
from common import about_this_run, write

from mofo import MoFO

SIZES = (1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000, 300_000_000)


def make_params(parameters, tensors):
    """Parameters with gradients of which rows differ in size."""
    width = 1000
    params = []
    for _ in range(tensors):
        rows = parameters // tensors // width
        param = torch.nn.Parameter(torch.empty(rows, width).normal_(std=0.02))
        param.grad = torch.empty(rows, width).normal_().mul_(torch.randn(rows, 1).mul_(1.5).exp_())
        params.append(param)
    return params


def measure(parameters, tensors, repeats, flush):
    """Nanoseconds a parameter of each optimizer in every round."""
    params = make_params(parameters, tensors)
    optimizers = {
        "AdamW fused": torch.optim.AdamW(params, lr=1e-5, fused=True),
        "MoFO α=0.05": MoFO(params, lr=1e-5, fraction=0.05),
    }
    for optimizer in optimizers.values():
        optimizer.step()
    first, second = (list(optimizer.state.values()) for optimizer in optimizers.values())
    for a, b in zip(first, second, strict=True):
        b.update(exp_avg=a["exp_avg"], exp_avg_sq=a["exp_avg_sq"])  # one set of moments: two would need more memory
    times = {name: [] for name in optimizers}
    for round_ in range(repeats + 1):
        for name, optimizer in random.Random(round_).sample(sorted(optimizers.items()), len(optimizers)):
            flush.add_(1)
            start = time.perf_counter()
            optimizer.step()
            if round_:
                times[name].append((time.perf_counter() - start) / parameters * 1e9)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="leave out larger ones (16 bytes a parameter)")
    arguments = parser.parse_args()
    flush = torch.zeros(1 << 26)  # 256 MiB
    rows = []
    print(f"{'threads':>8}{'tensors':>9}{'parameters':>13}{'MoFO ns':>10}{'AdamW ns':>10}{'ratio':>8}")
    for threads in sorted(set(arguments.threads)):
        torch.set_num_threads(threads)
        for tensors in (1, 1000):
            for parameters in (size for size in SIZES if size <= arguments.largest):
                times = measure(parameters, tensors, arguments.repeats, flush)
                ratios = [a / b for a, b in zip(times["MoFO α=0.05"], times["AdamW fused"], strict=True)]
                row = {
                    "threads": threads,
                    "tensors": tensors,
                    "parameters": parameters,
                    "nanoseconds": {name: round(statistics.median(values), 4) for name, values in times.items()},
                    "ratio": round(statistics.median(ratios), 3),
                    "quartiles": [round(q, 3) for q in statistics.quantiles(ratios, n=4, method="inclusive")[::2]],
                }
                rows.append(row)
                ours, theirs = row["nanoseconds"]["MoFO α=0.05"], row["nanoseconds"]["AdamW fused"]
                print(
                    f"{threads:>8}{tensors:>9}{parameters:>13}{ours:>10.3f}{theirs:>10.3f}{row['ratio']:>8.2f}",
                    flush=True,
                )
    result = about_this_run() | {"repeats": arguments.repeats, "rows": rows}
    write(result, Path(__file__).parent / "results" / "scaling-cpu.json")


if __name__ == "__main__":
    sys.exit(main())

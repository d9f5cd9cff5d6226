"""Time and memory of one optimizer step: MoFO against torch's AdamW and the official formula, paired in one run.

Usage: python benchmarks/step_time.py [--threads 1 2] [--repeats 9] [--shapes small] [--output FILE]
       python benchmarks/step_time.py --device cuda [--repeats 20] [--shapes llama-7b]: see gpu_step_time.py

In every round each contender makes one step on the same gradients and moments, one after the other, and the ratio to
fused AdamW is taken within the round: a machine that is slow for a while is slow for all. The order is another one in
every round. Extra memory is the peak during one step above what was held before it, each contender in a process of its
own.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from common import (
    BASELINE,
    GIVE_BACK,
    SHAPES,
    about_this_run,
    contenders,
    fill_gradients,
    make_params,
    measure_memory,
    share_moments,
    write,
)


def measure_times(shapes, repeats, names, warmup=2):
    """Seconds of each of these contenders' step in every round: by the clock, and of the processor."""
    grads = [torch.empty(shape) for shape in shapes]
    generator = torch.Generator().manual_seed(1)
    fill_gradients(grads, generator)
    params = make_params(shapes)
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    moments = [(torch.zeros_like(param), torch.zeros_like(param)) for param in params]
    ready = {}
    for name in names:
        ready[name] = contenders()[name](params)
        ready[name].step()
        share_moments(ready[name], moments)
    clock, processor = ({name: [] for name in ready} for _ in range(2))
    for round_ in range(warmup + repeats):
        fill_gradients(grads, generator)
        for name, optimizer in random.Random(round_).sample(sorted(ready.items()), len(ready)):
            start = time.perf_counter(), time.process_time()
            optimizer.step()
            taken = time.perf_counter() - start[0], time.process_time() - start[1]
            if round_ >= warmup:
                clock[name].append(taken[0])
                processor[name].append(taken[1])
        print(f"round {round_ + 1} of {warmup + repeats}", file=sys.stderr, flush=True)
    return clock, processor


def memory_of_each(arguments):
    """Extra bytes of each contender, measured in a process of its own; None where the system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return dict.fromkeys(arguments.only)
    extra = {}
    for name in arguments.only:
        command = [sys.executable, __file__, "--memory-of", name]
        done = subprocess.run(
            [*command, "--shapes", arguments.shapes, "--threads", *map(str, arguments.threads)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | GIVE_BACK,
        )
        extra[name] = int(done.stdout)
    return extra


def summary(clock, processor, extra, shapes):
    largest = 4 * max(torch.Size(shape).numel() for shape in shapes)
    return [
        {
            "contender": name,
            "milliseconds": round(1000 * statistics.median(times), 2),
            **ratios(times, clock[BASELINE]),
            "processor": ratios(processor[name], processor[BASELINE]),
            "extra_memory_bytes": extra[name],
            "extra_memory_over_largest_tensor": None if extra[name] is None else round(extra[name] / largest, 3),
        }
        for name, times in clock.items()
    ]


def ratios(times, baseline):
    """Median and quartiles of the ratios within a round."""
    of_rounds = [own / other for own, other in zip(times, baseline, strict=True)]
    low, middle, high = statistics.quantiles(of_rounds, n=4, method="inclusive")
    return {"ratio_to_fused_adamw": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]}


def print_table(rows):
    print(f"{'contender':<26}{'ms':>10}{'× AdamW fused':>16}{'quartiles':>18}{'of processor':>16}{'extra memory':>16}")
    for row in rows:
        low, high = row["quartiles"]
        extra = row["extra_memory_over_largest_tensor"]
        print(
            f"{row['contender']:<26}{row['milliseconds']:>10.1f}{row['ratio_to_fused_adamw']:>16.2f}"
            f"{f'{low:.2f} – {high:.2f}':>18}{row['processor']['ratio_to_fused_adamw']:>16.2f}"
            f"{'–' if extra is None else f'{extra:.2f}':>16}"
        )
    print("extra memory: peak during a step above what was held before, in units of the largest tensor")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--repeats", type=int, help="rounds that count (default 9, on a GPU 20)")
    parser.add_argument(
        "--shapes",
        choices=[*SHAPES, "llama-1b", "llama-7b"],
        help="smollm2-135m (default on a CPU), its first ten-layers, small, or on a GPU llama-1b and llama-7b (default "
        "there: all but small)",
    )
    parser.add_argument("--only", nargs="+", default=[*contenders()], choices=contenders(), help="on a CPU; with AdamW")
    parser.add_argument("--output", type=Path, help="JSON file (default benchmarks/results/step_time-DEVICE.json)")
    parser.add_argument("--memory-of", choices=contenders(), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        import gpu_step_time

        chosen = [arguments.shapes] if arguments.shapes else None
        gpu_step_time.run(chosen, arguments.repeats or 20, arguments.output)
        return
    arguments.shapes = arguments.shapes or "smollm2-135m"
    if arguments.shapes not in SHAPES:
        parser.error(f"--shapes {arguments.shapes} is for --device cuda")
    arguments.only = [BASELINE, *(name for name in arguments.only if name != BASELINE)]
    shapes = SHAPES[arguments.shapes]
    if arguments.memory_of:
        torch.set_num_threads(max(arguments.threads))
        print(measure_memory(contenders()[arguments.memory_of], shapes)[1])
        return
    repeats = arguments.repeats or 9
    extra = memory_of_each(arguments)
    runs = []
    for threads in sorted(set(arguments.threads)):
        torch.set_num_threads(threads)
        rows = summary(*measure_times(shapes, repeats, arguments.only), extra, shapes)
        print(f"{threads} thread{'s' if threads > 1 else ''}")
        print_table(rows)
        runs.append({"threads": threads, "rows": rows})
    result = {
        **about_this_run(),
        "shapes": arguments.shapes,
        "parameters": sum(torch.Size(shape).numel() for shape in shapes),
        "repeats": repeats,
        "runs": runs,
    }
    write(result, arguments.output or Path(__file__).parent / "results" / "step_time-cpu.json")


if __name__ == "__main__":
    main()

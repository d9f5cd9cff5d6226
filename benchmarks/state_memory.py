"""What the moments take: bytes a parameter between steps, memory and time of a step, for each kind of state.

Usage: python benchmarks/state_memory.py [--repeats 5] [--shapes third]

Between steps: the bytes of all tensors in the optimizer's state, for models whose shapes are listed here, without
making them. During a step, with the shapes of SmolLM2-135M: the peak above what was held before it, each kind in a
process of its own, and in another process the times of steps on one thread and on two, paired in rounds.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from common import (
    GIVE_BACK,
    SHAPES,
    about_this_run,
    fill_gradients,
    held,
    llama_shapes,
    make_params,
    measure_memory,
    share_moments,
    write,
)

from mofo import MoFO
from mofo.optim.state.moments import MOMENTS, new_state

KINDS = {
    "AdamW": lambda params: torch.optim.AdamW(params, lr=1e-5, weight_decay=0.0, fused=True),
    "MoFO float32": lambda params: MoFO(params, lr=1e-5),
    "MoFO int8": lambda params: MoFO(params, lr=1e-5, state_dtype="int8"),
}

THREADS = (1, 2)

MODELS = {
    "SmolLM2-135M": SHAPES["smollm2-135m"],
    "Qwen2.5-0.5B": llama_shapes(151936, 896, 4864, 24, 128, tied=True),
    "Llama-3.2-1B": llama_shapes(128256, 2048, 8192, 16, 512, tied=True),
    "Qwen2.5-7B": llama_shapes(152064, 3584, 18944, 28, 512, tied=False),
    "Llama-3.1-8B": llama_shapes(128256, 4096, 14336, 32, 1024, tied=False),
    "Llama-3.1-70B": llama_shapes(128256, 8192, 28672, 80, 1024, tied=False),
}


def between_steps(shapes, kind):
    """Bytes a parameter of the moments, and the share of entries that are quantised."""
    entries = total = quantised = 0
    for shape in shapes:
        param = torch.empty(shape, device="meta", dtype=torch.bfloat16)
        state = new_state(param, kind)
        entries += param.numel()
        total += sum(held(state[key]) for key in MOMENTS)
        quantised += param.numel() * (type(state["exp_avg"]) is not torch.Tensor)
    return {
        "parameters": entries,
        "bytes_per_parameter": round(total / entries, 4),
        "share_of_entries_in_8_bits": round(quantised / entries, 5),
    }


def memory_here(kind, shapes):
    """Bytes held by the state, and the peak of a step above what was held before it."""
    optimizer, extra = measure_memory(KINDS[kind], shapes)
    state = sum(held(state[key]) for state in optimizer.state.values() for key in MOMENTS)
    return {"state_bytes": state, "extra_bytes_in_a_step": extra}


def memory_of(kind, arguments):
    command = [sys.executable, __file__, "--memory-of", kind, "--shapes", arguments.shapes]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | GIVE_BACK)
    return json.loads(done.stdout)


def measure_times(shapes, repeats):
    """Seconds of a step of each kind in each round, on the same parameters and gradients, by the number of threads."""
    params = make_params(shapes)
    generator = torch.Generator().manual_seed(1)
    for param in params:
        param.grad = torch.empty_like(param)
    ready = {}
    moments = [(torch.zeros_like(param), torch.zeros_like(param)) for param in params]
    for kind, make in KINDS.items():
        ready[kind] = make(params)
        ready[kind].step()
        if kind != "MoFO int8":
            share_moments(ready[kind], moments)
    seconds = {threads: {kind: [] for kind in KINDS} for threads in THREADS}
    for round_ in range(repeats + 1):
        fill_gradients([param.grad for param in params], generator)
        for threads in THREADS:
            torch.set_num_threads(threads)
            for kind, optimizer in random.Random(round_).sample(sorted(ready.items()), len(ready)):
                start = time.perf_counter()
                optimizer.step()
                if round_:
                    seconds[threads][kind].append(time.perf_counter() - start)
        print(f"round {round_} of {repeats}", file=sys.stderr, flush=True)
    return seconds


def compared(seconds):
    """Times of the kinds, and their ratios to float32 in the same round."""
    rows = {}
    for kind, own in seconds.items():
        ratios = [a / b for a, b in zip(own, seconds["MoFO float32"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        rows[kind] = {
            "milliseconds": round(1000 * statistics.median(own), 1),
            "ratio_to_mofo_float32": round(middle, 3),
            "quartiles": [round(low, 3), round(high, 3)],
        }
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--shapes", default="smollm2-135m", choices=SHAPES)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "state_memory-cpu.json")
    parser.add_argument("--memory-of", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shapes = SHAPES[arguments.shapes]
    if arguments.memory_of:
        print(json.dumps(memory_here(arguments.memory_of, shapes)))
        return

    models = {
        name: {kind: between_steps(of_model, kind) for kind in ("float32", "int8")} for name, of_model in MODELS.items()
    }
    for name, kinds in models.items():
        int8 = kinds["int8"]
        print(
            f"{name:<16}{int8['parameters'] / 1e9:>8.2f} G parameters: {kinds['float32']['bytes_per_parameter']:.3f} "
            f"bytes each in float32, {int8['bytes_per_parameter']:.3f} in 8 bits, as which "
            f"{int8['share_of_entries_in_8_bits']:.3%} are kept"
        )
    largest = 4 * max(torch.Size(shape).numel() for shape in shapes)
    entries = sum(torch.Size(shape).numel() for shape in shapes)
    memory = {kind: memory_of(kind, arguments) for kind in KINDS}
    seconds = measure_times(shapes, arguments.repeats)
    rows = []
    times = {threads: compared(of_threads) for threads, of_threads in seconds.items()}
    for kind, found in memory.items():
        rows.append(
            {
                "kind": kind,
                "state_bytes_per_parameter": round(found["state_bytes"] / entries, 4),
                "extra_bytes_in_a_step": found["extra_bytes_in_a_step"],
                "extra_over_largest_tensor": round(found["extra_bytes_in_a_step"] / largest, 3),
                "threads": {threads: of_kinds[kind] for threads, of_kinds in times.items()},
            }
        )
        print(
            f"{kind:<14}{rows[-1]['state_bytes_per_parameter']:>8.3f} bytes a parameter,"
            f"{rows[-1]['extra_over_largest_tensor']:>7.2f} × the largest tensor in a step"
        )
        for threads, of_kinds in times.items():
            row, (low, high) = of_kinds[kind], of_kinds[kind]["quartiles"]
            print(
                f"  {threads} threads{row['milliseconds']:>9.1f} ms "
                f"({row['ratio_to_mofo_float32']:.2f} ×, {low:.2f} – {high:.2f})"
            )
    result = about_this_run() | {
        "repeats": arguments.repeats,
        "between_steps": models,
        "shapes": arguments.shapes,
        "parameters": entries,
        "during_a_step": rows,
    }
    write(result, arguments.output)


if __name__ == "__main__":
    main()

"""The paper's table of training time: what the optimizer adds to a training step, at three sizes of model.

Usage: python experiments/time/run.py [--sizes 35M 135M 362M] [--device cuda] [--threads 2] [--repeats 7]

A training step is a forward and a backward pass over 8 × 128 tokens, in bfloat16 autocast, and the optimizer's step.
The passes are the same for all contenders; in every round they are timed once, and each contender makes one step on the
same gradients and moments, in another order each time. Shares of a training step with AdamW are taken within a round;
their quartiles are printed. The weights are random: they do not change the time. Writes results-DEVICE.json and
time-DEVICE.png beside this file.
"""

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "benchmarks"))
from common import BASELINE, about_this_run, contenders, share_moments, write  # noqa: E402

NAMES = (BASELINE, "MoFO α=0.05", "MoFO α=0.15", "official formula α=0.05")
SIZES = {  # hidden and inner size, layers, heads, heads of keys and values; 135M and 362M are SmolLM2's
    "35M": (384, 1024, 10, 6, 2),
    "135M": (576, 1536, 30, 9, 3),
    "362M": (960, 2560, 32, 15, 5),
}
ROWS, LENGTH, VOCABULARY = 8, 128, 49152
PASSES = "forward and backward"


def make_model(size, device):
    hidden, inner, layers, heads, key_value = SIZES[size]
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value,
        tie_word_embeddings=True,
    )
    with device:
        return LlamaForCausalLM(config)


def timed(call, device):
    """Seconds of a call, to the end of what it started on the device."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(size, device, repeats):
    """Seconds of the passes and of each contender's step in every round, and the number of parameters."""
    torch.manual_seed(0)
    model = make_model(size, device)
    tokens = torch.randint(VOCABULARY, (ROWS, LENGTH), device=device)
    params = list(model.parameters())

    def passes():
        model.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            model(input_ids=tokens, labels=tokens).loss.backward()

    passes()
    made = contenders()
    ready = {name: made[name](params) for name in NAMES}
    moments = [(torch.zeros_like(param), torch.zeros_like(param)) for param in params]
    for optimizer in ready.values():
        optimizer.step()
        share_moments(optimizer, moments)
    rounds = []
    for round_ in range(repeats + 1):
        taken = {PASSES: timed(passes, device)}
        for name, optimizer in random.Random(round_).sample(sorted(ready.items()), len(ready)):
            taken[name] = timed(optimizer.step, device)
        rounds.append(taken)
        print(f"{size}: round {round_} of {repeats}", file=sys.stderr, flush=True)
    return rounds[1:], sum(param.numel() for param in params)


def quartiles(values, digits):
    return [round(value, digits) for value in statistics.quantiles(values, n=4, method="inclusive")]


def summary(rounds):
    """A row for each contender: its step, and by what share of AdamW's training step it is above AdamW's."""
    whole = [taken[PASSES] + taken[BASELINE] for taken in rounds]
    return [
        {
            "optimizer": name,
            "milliseconds": quartiles([1000 * taken[name] for taken in rounds], 2),
            "percent_above_adamw": quartiles(
                [100 * (taken[name] - taken[BASELINE]) / step for taken, step in zip(rounds, whole, strict=True)], 3
            ),
        }
        for name in NAMES
    ]


def print_table(found):
    print(f"{found['parameters']:,} parameters: {PASSES} {found['seconds_of_passes'][1]:.2f} s")
    for row in found["rows"]:
        low, middle, high = row["percent_above_adamw"]
        print(
            f"{row['optimizer']:<26}{row['milliseconds'][1]:>10.1f} ms"
            f"{middle:>+9.2f} % of a training step above AdamW ({low:+.2f} to {high:+.2f})"
        )


def draw(result, file):
    """Bars by size: how much longer a training step takes than with AdamW."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    names, sizes = NAMES[1:], result["sizes"]
    for place, (name, colour) in enumerate(zip(names, ("#4292c6", "#08519c", "#d94801"), strict=True)):
        found = [next(row for row in size["rows"] if row["optimizer"] == name) for size in sizes.values()]
        low, middle, high = zip(*(row["percent_above_adamw"] for row in found), strict=True)
        where = [number + (place - 1) * 0.27 for number in range(len(sizes))]
        spread = [[m - a for m, a in zip(middle, low, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]
        bars = axes.bar(where, middle, 0.25, yerr=spread, label=name, color=colour, error_kw={"lw": 0.8})
        axes.bar_label(
            bars, [f"{value:.0f} %" if value >= 10 else f"{value:.2g} %" for value in middle], padding=3, fontsize=8
        )
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(-1, 1500)
    axes.set_yticks([-1, 0, 1, 10, 100], ["−1 %", "0", "1 %", "10 %", "100 %"])
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(sizes)), [f"{size} parameters" for size in sizes])
    axes.set_ylabel("longer than with AdamW")
    axes.set_title(f"A training step of {ROWS} × {LENGTH} tokens, {result['device']}", fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=8, loc="upper right", ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7, help="rounds that count (default %(default)s)")
    parser.add_argument("--output", type=Path, default=HERE, help="folder (default: this one)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    sizes = {}
    for size in arguments.sizes:
        rounds, parameters = measure(size, device, arguments.repeats)
        passes = quartiles([taken[PASSES] for taken in rounds], 4)
        sizes[size] = {"parameters": parameters, "seconds_of_passes": passes, "rows": summary(rounds)}
        print_table(sizes[size])
    result = about_this_run() | {
        "threads": arguments.threads,
        "tokens": [ROWS, LENGTH],
        "repeats": arguments.repeats,
        "sizes": sizes,
    }
    if device.type == "cuda":
        result["device"] = torch.cuda.get_device_name()
    write(result, arguments.output / f"results-{device.type}.json")
    draw(result, arguments.output / f"time-{device.type}.png")


if __name__ == "__main__":
    main()

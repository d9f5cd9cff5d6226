"""What the optimizer adds to a training step of SmolLM2-135M on 8 × 128 tokens: MoFO, AdamW, the official formula.

Usage: python benchmarks/training_step.py [--threads 2] [--repeats 5]

The forward and backward passes are the same for all; their time is measured apart from the steps, in the same rounds.
The weights are random: they do not change the time.
"""

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

import torch
from common import BASELINE, about_this_run, contenders, share_moments, write
from transformers import LlamaConfig, LlamaForCausalLM

NAMES = (BASELINE, "MoFO α=0.05", "MoFO α=0.15", "official formula α=0.05")


def make_model():
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = make_model()
    tokens = torch.randint(49152, (8, 128))
    params = list(model.parameters())

    def passes():
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            model(input_ids=tokens, labels=tokens).loss.backward()

    passes()
    ready = {name: contenders()[name](params) for name in NAMES}
    moments = [(torch.zeros_like(param), torch.zeros_like(param)) for param in params]
    for optimizer in ready.values():
        optimizer.step()
        share_moments(optimizer, moments)
    seconds = {"forward and backward": [], **{name: [] for name in ready}}
    for round_ in range(arguments.repeats + 1):
        start = time.perf_counter()
        passes()
        taken = {"forward and backward": time.perf_counter() - start}
        for name, optimizer in random.Random(round_).sample(sorted(ready.items()), len(ready)):
            start = time.perf_counter()
            optimizer.step()
            taken[name] = time.perf_counter() - start
        if round_:
            for name, value in taken.items():
                seconds[name].append(value)
        print(f"round {round_} of {arguments.repeats}", file=sys.stderr, flush=True)

    median = {name: statistics.median(values) for name, values in seconds.items()}
    whole = median["forward and backward"] + median[BASELINE]
    rows = [
        {
            "optimizer": name,
            "milliseconds": round(1000 * median[name], 2),
            "percent_of_a_training_step_with_adamw": round(100 * median[name] / whole, 3),
            "percent_above_adamw": round(100 * (median[name] - median[BASELINE]) / whole, 3),
        }
        for name in NAMES
    ]
    print(f"forward and backward: {median['forward and backward']:.2f} s")
    for row in rows:
        print(
            f"{row['optimizer']:<26}{row['milliseconds']:>10.1f} ms"
            f"{row['percent_of_a_training_step_with_adamw']:>9.2f} % of a step"
            f"{row['percent_above_adamw']:>+9.2f} % above AdamW"
        )
    result = about_this_run() | {
        "threads": arguments.threads,
        "tokens": list(tokens.shape),
        "repeats": arguments.repeats,
        "forward_and_backward_seconds": round(median["forward and backward"], 3),
        "rows": rows,
    }
    write(result, Path(__file__).parent / "results" / "training_step-cpu.json")


if __name__ == "__main__":
    main()

"""Time, bandwidth and memory of one optimizer step on a GPU; `python benchmarks/step_time.py --device cuda` runs it.

Each contender has the GPU for itself, in a process of its own: a 7B model with its moments leaves no room for two.
Times are medians of events on the device, with fresh gradients before each step. Bytes are those that the method has to
move, as computed and not as counted; the bandwidth to compare with is that of a copy on the same device.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from common import SHAPES as CPU_SHAPES
from common import about_this_run, fill_gradients, llama_shapes, write
from official import official_step

from mofo import MoFO

SHAPES = {
    **CPU_SHAPES,
    "llama-1b": llama_shapes(128256, 2048, 8192, 16, 512, tied=True),
    "llama-7b": llama_shapes(32000, 4096, 11008, 32, 4096, tied=False),
}
ALL = ("smollm2-135m", "llama-1b", "llama-7b")
RATE = {"lr": 1e-5, "weight_decay": 0.0}
SECTOR = 32  # bytes that memory moves at least


class Official:
    """The official formula behind the interface of an optimizer, with float32 moments as ours."""

    def __init__(self, params):
        self.params, self.t = params, 0
        self.moments = [torch.zeros(2, *p.shape, dtype=torch.float32, device=p.device) for p in params]
        self.state = {position: {"moments": both} for position, both in enumerate(self.moments)}

    @torch.no_grad()
    def step(self):
        """One step of all parameters."""
        self.t += 1
        for param, (m, v) in zip(self.params, self.moments, strict=True):
            options = {"fraction": max(0.05, 1.001 / param.numel()), "betas": (0.9, 0.999), "eps": 1e-8}
            new = param.float()
            official_step(new, param.grad.float(), m, v, self.t, **RATE, **options)
            param.copy_(new)


def by_rows(params):
    """Parameter groups in which every row of a matrix is a block."""
    groups = {}
    for param in params:
        groups.setdefault(param.shape[0] if param.dim() > 1 else 1, []).append(param)
    return [{"params": members, "blocks": blocks} for blocks, members in groups.items()]


def torchao_8bit(params):
    from torchao.optim import AdamW8bit

    return AdamW8bit(params, **RATE)


def bitsandbytes_8bit(params):
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(params, **RATE)


def mofo(**options):
    return lambda params: MoFO(params, **RATE, **options)


def bytes_of_adamw(dtype, moments):
    """Bytes that AdamW moves for a parameter: reads of p, g, m, v, writes of p, m, v; moments of so many bytes."""
    return 3 * dtype.itemsize + 2 * moments


def bytes_of_mofo(dtype, fraction, rows=False):
    """Bytes that our kernels move for a parameter where selected entries lie anywhere (docs/gpu-step.md).

    Reads of g, m, v, writes of m, v, and the sectors of p that have a selected entry; but for small blocks the second
    pass reads m again, and sectors of v.
    """
    of_p, of_v = (1 - (1 - fraction) ** (SECTOR // itemsize) for itemsize in (dtype.itemsize, 4))
    return dtype.itemsize + 16 + 2 * dtype.itemsize * of_p + (0 if rows else 4 + 4 * of_v)


# By name: type of parameters and gradients, bytes moved for a parameter, and what makes the optimizer.
WIDE, HALF = torch.float32, torch.bfloat16
ADAMW_32, ADAMW_16 = "AdamW fused, all float32", "AdamW fused, all bfloat16"
DENSE, OURS, OFFICIAL = "AdamW, our kernel (fraction=1)", "MoFO α=0.05", "official formula α=0.05"
CONTENDERS = {
    ADAMW_32: (WIDE, bytes_of_adamw(WIDE, 8), lambda params: torch.optim.AdamW(params, **RATE, fused=True)),
    ADAMW_16: (HALF, bytes_of_adamw(HALF, 4), lambda params: torch.optim.AdamW(params, **RATE, fused=True)),
    DENSE: (HALF, bytes_of_adamw(HALF, 8), mofo(fraction=1.0)),
    "MoFO α=0.01": (HALF, bytes_of_mofo(HALF, 0.01), mofo(fraction=0.01)),
    OURS: (HALF, bytes_of_mofo(HALF, 0.05), mofo(fraction=0.05)),
    "MoFO α=0.15": (HALF, bytes_of_mofo(HALF, 0.15), mofo(fraction=0.15)),
    "MoFO α=0.05, stochastic rounding": (
        HALF,
        bytes_of_mofo(HALF, 0.05),
        mofo(fraction=0.05, rounding="stochastic"),
    ),
    "MoFO α=0.05, rows as blocks": (
        HALF,
        bytes_of_mofo(HALF, 0.05, rows=True),
        lambda params: MoFO(by_rows(params), **RATE, fraction=0.05),
    ),
    "MoFO α=0.05, all float32": (WIDE, bytes_of_mofo(WIDE, 0.05), mofo(fraction=0.05)),
    OFFICIAL: (HALF, bytes_of_adamw(HALF, 8), Official),
    "torchao AdamW 8-bit": (HALF, bytes_of_adamw(HALF, 2), torchao_8bit),
    "bitsandbytes AdamW 8-bit": (HALF, bytes_of_adamw(HALF, 2), bitsandbytes_8bit),
}
LIBRARIES = {"torchao AdamW 8-bit": "torchao", "bitsandbytes AdamW 8-bit": "bitsandbytes"}


class Clock:
    """Seconds between two points of the device's work."""

    def __init__(self, device):
        self.device = device

    def now(self):
        """A point in time."""
        if self.device == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start, end):
        """Seconds from one point to another."""
        if self.device == "cpu":
            return end - start
        end.synchronize()
        return start.elapsed_time(end) / 1000


def state_bytes(optimizer):
    """Bytes of the moments and all else that the optimizer remembers."""
    tensors = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return sum(tensor.nbytes for tensor in tensors)


def scratch_bytes(optimizer):
    """Bytes that our kernels keep from step to step."""
    return sum(workspace.nbytes for workspace in getattr(optimizer, "workspaces", {}).values())


def measure(name, shapes, device, repeats, warmup=3):
    """Times and memory of one contender, and where they are ours the times of the kernels."""
    dtype, moved, make = CONTENDERS[name]
    generator = torch.Generator(device).manual_seed(0)
    params = [torch.nn.Parameter(torch.empty(shape, dtype=dtype, device=device)) for shape in shapes]
    grads = [torch.empty_like(param) for param in params]
    for param, grad in zip(params, grads, strict=True):
        param.data.normal_(0, 0.02, generator=generator)
        param.grad = grad
    optimizer, clock, seconds = make(params), Clock(device), []
    for round_ in range(warmup + repeats):
        fill_gradients(grads, generator)
        if device == "cuda" and round_ == warmup - 1:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        start = clock.now()
        optimizer.step()
        end = clock.now()
        if round_ >= warmup:
            seconds.append(clock.between(start, end))
        elif device == "cuda" and round_ == warmup - 1:
            peak = torch.cuda.max_memory_allocated() - held
    count = sum(param.numel() for param in params)
    result = {
        "contender": name,
        "parameters": str(dtype).removeprefix("torch."),
        "milliseconds": 1000 * statistics.median(seconds),
        "quartiles": [1000 * q for q in statistics.quantiles(seconds, n=4, method="inclusive")[::2]],
        "bytes_per_parameter": moved,
        "bytes_per_second": moved * count / statistics.median(seconds),
        "state_bytes": state_bytes(optimizer),
        "extra_memory_bytes": scratch_bytes(optimizer) + (peak if device == "cuda" else 0),
        "extra_memory_over_largest_tensor": None,
    }
    largest = max(param.nbytes for param in params)
    result["extra_memory_over_largest_tensor"] = result["extra_memory_bytes"] / largest
    if scratch_bytes(optimizer) and device == "cuda":
        result["microseconds_of_kernels"] = time_kernels(optimizer)
    return result


def time_kernels(optimizer):
    """Microseconds on the device of each kernel of a step."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        optimizer.step()
        torch.cuda.synchronize()
    return {entry.key: round(entry.self_device_time_total, 1) for entry in profiler.key_averages()}


def copy_bandwidth(device, repeats=20):
    """Bytes per second, read and written, of copying 1 GiB."""
    source = torch.empty(1 << 30 if device == "cuda" else 1 << 24, dtype=torch.uint8, device=device)
    target, clock, seconds = torch.empty_like(source), Clock(device), []
    for _ in range(repeats):
        start = clock.now()
        target.copy_(source)
        seconds.append(clock.between(start, clock.now()))
    return 2 * source.nbytes / statistics.median(seconds)


def training_step(device, repeats, layers=16):
    """Seconds of forward and backward passes of a 1B Llama on 4096 tokens in bfloat16, and of each one's step."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device(device):
        model = LlamaForCausalLM(config).bfloat16()
        tokens = torch.randint(config.vocab_size, (2, 2048))
    params, clock, seconds = list(model.parameters()), Clock(device), {}
    ready = {name: CONTENDERS[name][2](params) for name in (ADAMW_16, DENSE, OURS)}
    for round_ in range(2 + repeats):
        for name, optimizer in ready.items():
            start = clock.now()
            model(input_ids=tokens, labels=tokens).loss.backward()
            middle = clock.now()
            optimizer.step()
            end = clock.now()
            optimizer.zero_grad()
            if round_ >= 2:
                seconds.setdefault("forward and backward", []).append(clock.between(start, middle))
                seconds.setdefault(name, []).append(clock.between(middle, end))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    passes = medians["forward and backward"]
    added = {name: (medians[OURS] - medians[name]) / (passes + medians[name]) for name in (ADAMW_16, DENSE)}
    return {"seconds": medians, "added_by_mofo_over": added}


def in_a_process(*arguments):
    """What this file prints as JSON when it is run with these arguments; or None, with the reason printed."""
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        print(f"skipped {arguments[1]}: {done.stderr.strip().splitlines()[-1]}", flush=True)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def print_table(rows, bandwidth):
    times = {row["contender"]: row["milliseconds"] for row in rows}
    print(f"{'contender':<36}{'ms':>9}{'× dense':>9}{'bytes/par.':>12}{'of copy':>9}{'extra memory':>14}")
    for row in rows:
        ratio = row["milliseconds"] / times.get(DENSE, float("nan"))
        print(
            f"{row['contender']:<36}{row['milliseconds']:>9.2f}{ratio:>9.2f}"
            f"{row['bytes_per_parameter']:>12.1f}{row['bytes_per_second'] / bandwidth:>9.0%}"
            f"{row['extra_memory_over_largest_tensor']:>14.2f}"
        )
    print("× dense: AdamW of the same types by our kernel; extra memory: in units of the largest parameter")
    if OURS in times and OFFICIAL in times:
        print(f"official formula ÷ ours: {times[OFFICIAL] / times[OURS]:.1f}")


def run(shape_names, repeats, output):
    """Measure, print a table for each set of shapes, write the JSON."""
    if not torch.cuda.is_available():
        sys.exit("step_time.py --device cuda needs a GPU that torch can use: torch.cuda.is_available() is False")
    bandwidth = copy_bandwidth("cuda")
    print(f"{torch.cuda.get_device_name()}: a copy moves {bandwidth / 1e9:.0f} GB/s", flush=True)
    runs = []
    for shapes in shape_names or ALL:
        rows = []
        for name in CONTENDERS:
            library = LIBRARIES.get(name)
            if library and importlib.util.find_spec(library) is None:
                print(f"skipped {name}: {library} is not installed")
                continue
            row = in_a_process("--measure", name, "--shapes", shapes, "--repeats", repeats)
            rows += [row] if row else []
        print(shapes)
        print_table(rows, bandwidth)
        count = sum(torch.Size(shape).numel() for shape in SHAPES[shapes])
        runs.append({"shapes": shapes, "parameters": count, "rows": rows})
    whole = in_a_process("--measure", "training step", "--repeats", repeats)
    if whole:
        for name, added in whole["added_by_mofo_over"].items():
            print(f"a training step of a 1B Llama on 4096 tokens takes {added:+.2%} with {OURS} than with {name}")
    result = {
        **about_this_run(),
        "device": torch.cuda.get_device_name(),
        "copy_bytes_per_second": bandwidth,
        "repeats": repeats,
        "runs": runs,
        "training_step_llama_1b_4096_tokens": whole,
    }
    write(result, output or Path(__file__).parent / "results" / "step_time-cuda.json")


def main():
    """One measurement, printed as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", required=True, choices=[*CONTENDERS, "training step"])
    parser.add_argument("--shapes", choices=SHAPES)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.measure == "training step":
        print(json.dumps(training_step("cuda", arguments.repeats)))
    else:
        print(json.dumps(measure(arguments.measure, SHAPES[arguments.shapes], "cuda", arguments.repeats)))


if __name__ == "__main__":
    main()

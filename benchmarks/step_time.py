"""Time and memory of one optimizer step: MoFO against torch's AdamW and the official formula, paired in one run.

Usage: python benchmarks/step_time.py [--threads 1 2] [--repeats 9] [--shapes small] [--output FILE]
       python benchmarks/step_time.py --device cuda [--repeats 20] [--shapes llama-7b]: see gpu_step_time.py

In every round each contender makes one step on the same gradients and moments, one after the other, and the ratio to
fused AdamW is taken within the round: a machine that is slow for a while is slow for all. The order is another one in
every round. Extra memory is the peak during one step above what was held before it, each contender in a process of its
own.
"""

import argparse
import ctypes
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

import mofo
from mofo import MoFO

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from reference.naive import official_step

FRACTIONS = (0.01, 0.05, 0.15)
BASELINE = "AdamW fused"


def llama_shapes(vocabulary, hidden, inner, layers, key_value, tied):
    """The parameter shapes of a Llama-like model without biases."""
    layer = [(hidden, hidden), (key_value, hidden), (key_value, hidden), (hidden, hidden)]
    layer += [(inner, hidden), (inner, hidden), (hidden, inner), (hidden,), (hidden,)]
    head = [] if tied else [(vocabulary, hidden)]
    return [(vocabulary, hidden), *layer * layers, (hidden,), *head]


SHAPES = {
    "smollm2-135m": llama_shapes(49152, 576, 1536, 30, 192, tied=True),
    "small": llama_shapes(4096, 576, 1536, 2, 192, tied=True),
}

# The C library must give freed memory back, or what it kept from the steps before would hide what one step needs.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


class Official:
    """The official update formula behind the interface of an optimizer."""

    def __init__(self, params, fraction):
        self.params, self.fraction, self.t = params, fraction, 0
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in params]

    @torch.no_grad()
    def step(self):
        """One step of all parameters."""
        self.t += 1
        for param, (m, v) in zip(self.params, self.moments, strict=True):
            fraction = max(self.fraction, 1.001 / param.numel())  # int(d * fraction) must not be 0
            options = {"lr": 1e-5, "fraction": fraction, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
            official_step(param, param.grad, m, v, self.t, **options)


def contenders():
    """A constructor for each contender, by name."""
    made = {
        BASELINE: lambda params: torch.optim.AdamW(params, lr=1e-5, weight_decay=0.0, fused=True),
        "AdamW foreach": lambda params: torch.optim.AdamW(params, lr=1e-5, weight_decay=0.0, foreach=True),
    }
    for fraction in FRACTIONS:
        made[f"MoFO α={fraction}"] = lambda params, f=fraction: MoFO(params, lr=1e-5, fraction=f)
    made["MoFO α=0.05, foreach"] = lambda params: MoFO(params, lr=1e-5, fraction=0.05, foreach=True)
    made["MoFO α=0.05, plain"] = lambda params: MoFO(params, lr=1e-5, fraction=0.05, foreach=False)
    made["official formula α=0.05"] = lambda params: Official(params, 0.05)
    return made


def make_params(shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).mul_(0.02)) for shape in shapes]


def fill_gradients(grads, generator):
    """Gradients as language models have them: rows and columns of very different size, noise within."""
    for grad in grads:
        grad.normal_(generator=generator)
        if grad.dim() == 2:
            scales = torch.Generator(grad.device).manual_seed(grad.shape[0])
            grad.mul_(torch.randn(grad.shape[0], 1, generator=scales, device=grad.device).mul_(1.5).exp_())
            grad.mul_(torch.randn(1, grad.shape[1], generator=scales, device=grad.device).mul_(0.5).exp_())


def share_moments(optimizer, moments):
    """Let an optimizer go on from these moments; eight sets of them would need 9 GB."""
    if isinstance(optimizer, Official):
        optimizer.moments = moments
        return
    for state, (exp_avg, exp_avg_sq) in zip(optimizer.state.values(), moments, strict=True):
        state.update(exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)


def measure_times(shapes, repeats, warmup=2):
    """Seconds of each contender's step in every round."""
    grads = [torch.empty(shape) for shape in shapes]
    generator = torch.Generator().manual_seed(1)
    fill_gradients(grads, generator)
    params = make_params(shapes)
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    moments = [(torch.zeros_like(param), torch.zeros_like(param)) for param in params]
    ready = {}
    for name, make in contenders().items():
        ready[name] = make(params)
        ready[name].step()
        share_moments(ready[name], moments)
    seconds = {name: [] for name in ready}
    for round_ in range(warmup + repeats):
        fill_gradients(grads, generator)
        for name, optimizer in random.Random(round_).sample(sorted(ready.items()), len(ready)):
            start = time.perf_counter()
            optimizer.step()
            taken = time.perf_counter() - start
            if round_ >= warmup:
                seconds[name].append(taken)
        print(f"round {round_ + 1} of {warmup + repeats}", file=sys.stderr, flush=True)
    return seconds


def measure_memory(make, shapes):
    """The optimizer that ``make`` gives, after three steps, and the peak of the third above what was held before it."""
    params = make_params(shapes)
    optimizer = make(params)
    generator = torch.Generator().manual_seed(1)
    for param in params:
        param.grad = torch.empty_like(param)
    for _ in range(2):
        fill_gradients([param.grad for param in params], generator)
        optimizer.step()
    fill_gradients([param.grad for param in params], generator)
    ctypes.CDLL(None).malloc_trim(0)  # memory that the steps before have freed must not hide what this one takes
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    optimizer.step()
    return optimizer, max(0, _status("VmHWM") - before)


def _status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def memory_of_each(arguments):
    """Extra bytes of each contender, measured in a process of its own; None where the system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return dict.fromkeys(contenders())
    extra = {}
    for name in contenders():
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


def summary(seconds, extra, shapes):
    largest = 4 * max(torch.Size(shape).numel() for shape in shapes)
    rows = []
    for name, times in seconds.items():
        ratios = [own / other for own, other in zip(times, seconds[BASELINE], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        rows.append(
            {
                "contender": name,
                "milliseconds": round(1000 * statistics.median(times), 2),
                "ratio_to_fused_adamw": round(middle, 3),
                "quartiles": [round(low, 3), round(high, 3)],
                "extra_memory_bytes": extra[name],
                "extra_memory_over_largest_tensor": None if extra[name] is None else round(extra[name] / largest, 3),
            }
        )
    return rows


def print_table(rows):
    print(f"{'contender':<26}{'ms':>10}{'× AdamW fused':>16}{'quartiles':>18}{'extra memory':>16}")
    for row in rows:
        low, high = row["quartiles"]
        extra = row["extra_memory_over_largest_tensor"]
        print(
            f"{row['contender']:<26}{row['milliseconds']:>10.1f}{row['ratio_to_fused_adamw']:>16.2f}"
            f"{f'{low:.2f} – {high:.2f}':>18}{'–' if extra is None else f'{extra:.2f}':>16}"
        )
    print("extra memory: peak during a step above what was held before, in units of the largest tensor")


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--repeats", type=int, help="rounds that count (default 9, on a GPU 20)")
    parser.add_argument(
        "--shapes",
        choices=[*SHAPES, "llama-1b", "llama-7b"],
        help="smollm2-135m (default on a CPU), small, or on a GPU llama-1b and llama-7b (default there: all but small)",
    )
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
        rows = summary(measure_times(shapes, repeats), extra, shapes)
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


def about_this_run():
    """What a figure depends on besides the code that is measured."""
    return {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "device": processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "default"),
        "back_ends": mofo.backends(),
        "versions": {"mofo": mofo.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def write(result, output):
    """Save a result as JSON."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"written to {output}")


if __name__ == "__main__":
    main()

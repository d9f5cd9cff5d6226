"""What the benchmarks have in common: shapes, contenders, gradients, memory, and the JSON that each writes."""

import ctypes
import json
import os
import platform
import sys
from pathlib import Path

import torch
from official import Official

import mofo
from mofo import MoFO

ROOT = Path(__file__).resolve().parents[1]
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
    "ten-layers": llama_shapes(49152, 576, 1536, 10, 192, tied=True),
    "third": llama_shapes(16384, 576, 1536, 10, 192, tied=True),  # of the layers and the vocabulary: takes 1.2 GB
    "small": llama_shapes(4096, 576, 1536, 2, 192, tied=True),
}

# The C library must give freed memory back, or what it kept from the steps before would hide what one step needs.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


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


def held(moment):
    """Bytes of a tensor; of a quantised one, of the tensors it is made of."""
    if type(moment) is torch.Tensor:
        return moment.numel() * moment.itemsize
    names, _ = moment.__tensor_flatten__()
    return sum(held(getattr(moment, name)) for name in names)


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


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def about_this_run():
    """What a figure depends on besides the code that is measured."""
    return {
        "command": " ".join(["python", os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]]),
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

"""What a program runs on: versions of libraries, the machine, and what computes a step of the optimizer on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import mofo
from mofo.models.precision import choose_precision
from mofo.optim.kernels.cpu import library
from mofo.optim.kernels.dispatch import TRITON_DEVICES, triton_version

if TYPE_CHECKING:
    from mofo.results import Hardware

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "torchao", "triton")
"""Libraries whose versions decide what mofo can do."""

VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "MOFO_CACHE",
    "MOFO_CPU_LIBRARY",
)
"""Environment variables that decide how fast a step is, and where models and data come from."""


def versions(*libraries: str) -> dict[str, str]:
    """Return the versions of mofo, Python and those of the named libraries that are installed."""
    found = {"mofo": mofo.__version__, "python": platform.python_version()}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> Hardware:
    """Return the machine, as `results.json` names it."""
    import psutil

    from mofo.results import Hardware

    cuda = torch.cuda.is_available()
    return Hardware(
        processor=processor(),
        cores=os.cpu_count(),
        memory_bytes=psutil.virtual_memory().total,
        device="cuda" if cuda else "cpu",
        gpu=torch.cuda.get_device_name() if cuda else None,
    )


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """Return what a report of a fault should name, as JSON values. It needs torch alone.

    Returns:
        `versions` (null for what is not installed), `native_library` (path and instruction set, or why there is
        none), `devices` with their memory in bytes, `threads`, `steps` (what computes a step of MoFO on each type of
        device, and why), `precision` (in which `auto` computes) and `variables`.
    """
    installed = versions(*LIBRARIES)
    native = library.load()
    return {
        "versions": {name: installed.get(name) for name in ("mofo", "python", *LIBRARIES)},
        "platform": platform.platform(),
        "native_library": native if isinstance(native, str) else f"{native.instruction_set}, {native.path}",
        "devices": _devices(),
        "threads": torch.get_num_threads(),
        "steps": _steps(native),
        "precision": choose_precision("auto"),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _devices() -> list[dict[str, Any]]:
    cpu = {"device": "cpu", "name": processor(), "cores": os.cpu_count(), "memory_bytes": _memory()}
    gpus = []
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        gpus.append({"device": f"cuda:{index}", "name": found.name, "memory_bytes": found.total_memory})
    kind = _accelerator()
    if kind not in (None, "cuda"):
        gpus += [{"device": f"{kind}:{index}"} for index in range(torch.accelerator.device_count())]
    return [cpu, *gpus]


def _accelerator() -> str | None:
    """Return the type of the accelerator that torch was built for; None if there is none in this machine."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return None if device is None else device.type


def _memory() -> int | None:
    """Return the main memory in bytes; None without psutil, which comes with the workbench."""
    try:
        import psutil
    except ImportError:
        return None
    total: int = psutil.virtual_memory().total
    return total


def _steps(native: library.Library | str) -> dict[str, dict[str, str]]:
    """Return what computes a step on each type of device, and why it is that."""
    computes = mofo.backends()
    cpu = (
        "no native library"
        if isinstance(native, str)
        else f"the best for this processor of {', '.join(native.kernels)}"
    )
    gpu = f"serves {' and '.join(TRITON_DEVICES)}" if triton_version() else "its kernels need Triton"
    if _accelerator() not in TRITON_DEVICES:
        gpu += "; there is none here"
    reasons = {"cpu": cpu, "gpu": gpu, "other": "there are no kernels for other devices"}
    return {device: {"by": by, "why": reasons[device]} for device, by in computes.items()}


def environment_text(found: dict[str, Any]) -> str:
    """Return what `environment` found, for reading and pasting: a line each."""
    lines = {name: version or "not installed" for name, version in found["versions"].items()}
    lines |= {"platform": found["platform"], "native library": found["native_library"]}
    for device in found["devices"]:
        memory = device.get("memory_bytes")
        parts = [device.get("name"), f"{device['cores']} cores" if "cores" in device else None]
        parts.append(f"{memory / 1e9:.1f} GB" if memory else None)
        lines[device["device"]] = ", ".join(part for part in parts if part)
    lines |= {"threads": str(found["threads"]), "precision": found["precision"]}
    lines |= {f"step on {device}": f"{step['by']}: {step['why']}" for device, step in found["steps"].items()}
    lines |= found["variables"]
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())

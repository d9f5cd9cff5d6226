"""Made-up results in the shape of results.json, close to what a 135M model gives; for tests of the report alone."""

import json
import math
import random
from pathlib import Path
from typing import Any

BASE = {
    "text": {"loss": 3.721},
    "divergence": {"kl": 0.0},
    "choice": {"accuracy": 0.612, "log_probability": -1.374},
}
# How fast a method forgets, how far it moves and how many entries it touches, at the same learning.
CHARACTER = {
    "adamw": (1.0, 1.0, 1.0),
    "mofo": (0.72, 0.42, 0.47),
    "mofo-gradient": (0.85, 0.45, 0.6),
    "mofo-momentum_over_rms": (0.8, 0.55, 0.76),
    "mofo-random": (1.15, 0.5, 0.98),
}


def make_results(
    methods: tuple[str, ...] = ("adamw", "mofo"),
    learning_rates: tuple[float, ...] = (5e-5, 1e-4, 2e-4, 3e-4),
    fractions: tuple[float, ...] = (0.15,),
    seeds: tuple[int, ...] = (0,),
    steps: int = 60,
    every: int = 20,
    probes: dict[str, dict[str, float]] | None = None,
    noise: float = 0.05,
    character: dict[str, tuple[float, float, float]] | None = None,
) -> dict[str, Any]:
    """A complete comparison over all combinations."""
    base = {"step": 0, "learned": {"loss": 2.11, "accuracy": 0.0}, "forgotten": {**BASE, **(probes or {})}}
    runs = [
        _run(method, lr, fraction, seed, steps, every, base, noise, {**CHARACTER, **(character or {})})
        for method in methods
        for lr in learning_rates
        for fraction in ((None,) if method == "adamw" else fractions)
        for seed in seeds
    ]
    return {
        "schema": 1,
        "complete": True,
        "recipe": {
            "model": "smollm2-135m",
            "data": "gsm-symbolic",
            "methods": list(methods),
            "learning_rates": list(learning_rates),
            "fractions": list(fractions),
            "seeds": list(seeds),
            "steps": steps,
            "batch_size": 8,
            "max_length": 128,
            "probes": list(base["forgotten"]),
        },
        "versions": {"mofo": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0"},
        "hardware": {"processor": "AMD EPYC", "cores": 2, "memory_bytes": 25_000_000_000, "device": "cpu", "gpu": None},
        "base": base,
        "runs": runs,
    }


def write_results(folder: Path, results: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def _run(
    method: str,
    lr: float,
    fraction: float | None,
    seed: int,
    steps: int,
    every: int,
    base: dict[str, Any],
    noise: float,
    character: dict[str, tuple[float, float, float]],
) -> dict[str, Any]:
    name = f"{method}{'' if fraction is None else f'-f{fraction}'}-lr{lr:g}-s{seed}"
    chance = random.Random(name)
    forgets, moves, touched = character[method]
    if fraction is not None:
        moves, touched = moves * (fraction / 0.15) ** 0.3, min(1.0, touched * (fraction / 0.15) ** 0.5)
    shift = chance.gauss(0, noise / 10)
    # MoFO learns as if its learning rate were lower.
    speed = lr * (0.5 + 0.5 * moves) * 1e4

    def noisy(value: float) -> float:
        return value * (1 + chance.gauss(0, noise))

    def point(step: int) -> dict[str, Any]:
        loss = 1.225 + 0.885 * math.exp(-1.75 * (step / 20) ** 0.55 * speed**0.4) + 0.006 * speed + shift
        learned = 2.11 - loss
        kl = forgets * (0.04 * learned + 0.13 * speed**0.9 * (step / 60) ** 0.6)
        forgotten = {}
        for probe, metrics in base["forgotten"].items():
            if "kl" in metrics:
                forgotten[probe] = {"kl": noisy(kl)}
            elif "loss" in metrics:
                forgotten[probe] = {"loss": metrics["loss"] + 0.55 * kl - 0.03 + chance.gauss(0, noise / 8)}
            else:
                drop = 0.15 * kl - 0.02 + chance.gauss(0, noise / 8)
                forgotten[probe] = {
                    "accuracy": round((metrics["accuracy"] - drop * 0.6 + chance.gauss(0, 0.004)) * 250) / 250,
                    "log_probability": metrics["log_probability"] - drop,
                }
        return {
            "step": step,
            "tokens": step * 1024,
            "learned": {"loss": loss, "accuracy": round(0.2 * learned, 3) if step == steps else None},
            "forgotten": forgotten,
            "distance": {"l2": moves * 8.9 * lr * 1e4 * (step / steps) ** 0.7, "moved": touched},
        }

    layers = ["embed_tokens", *map(str, range(30)), "norm"]
    optimizer = steps * (0.1 if method == "adamw" else 0.21)
    training = steps * 3.1 + optimizer
    return {
        "name": name,
        "method": method,
        "settings": {"learning_rate": lr} | ({} if fraction is None else {"fraction": fraction}),
        "seed": seed,
        "points": [point(step) for step in range(every, steps + 1, every)],
        "training": [
            {"step": s, "loss": point(s)["learned"]["loss"] + chance.gauss(0, 0.05), "learning_rate": lr}
            for s in range(5, steps + 1, 5)
        ],
        "distance": {
            "l2": moves * 8.9 * lr * 1e4,
            "relative": 0.004,
            "moved": touched,
            "layers": [
                {
                    "layer": layer,
                    "l2": noisy(moves * lr * 1e4 * (2.4 if i == 0 else 0.2 if layer == "norm" else 1.2 + 0.02 * i)),
                    "moved": min(1.0, noisy(touched * (0.4 if i == 0 else 1.0))),
                    "parameters": 28_311_552 if i == 0 else 576 if layer == "norm" else 3_540_096,
                }
                for i, layer in enumerate(layers)
            ],
        },
        "seconds": {
            "optimizer": noisy(optimizer),
            "training": noisy(training),
            "measuring": 58.0,
            "total": noisy(training) + 60,
        },
        "peak_memory_bytes": 3_100_000_000,
    }

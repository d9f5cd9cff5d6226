"""Made-up results, close to what a 135M model gives; for tests of the report alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mofo.report.comparison import Comparison
from mofo.results import (
    Distance,
    FinalDistance,
    Hardware,
    LayerDistance,
    MethodInfo,
    Metric,
    Plan,
    Point,
    Results,
    Run,
    Seconds,
    SettingInfo,
    Task,
    TrainingStep,
)
from mofo.results import write_results as write

TASK = "sums"
Numbers = dict[str, dict[str, float | None]]
BASE: Numbers = {
    "text": {"loss": 3.721},
    "divergence": {"kl": 0.0},
    "choice": {"accuracy": 0.612, "log_probability": -1.374},
}
LABELS = {
    "adamw": "AdamW",
    "mofo": "MoFO",
    "mofo-gradient": "MoFO (gradient)",
    "mofo-momentum_over_rms": "MoFO (m/√v)",
    "mofo-random": "MoFO (random)",
}
SETTINGS = {
    "learning_rate": SettingInfo(label="lr", description="peak learning rate"),
    "fraction": SettingInfo(label="fraction", description="share of entries that move at a step"),
}
LOSS = Metric(kind="learned", source=TASK, name="loss", task=TASK, label="held-out loss", unit="nats per token")
ANSWERS = Metric(
    kind="learned",
    source=TASK,
    name="accuracy",
    task=TASK,
    label="accuracy",
    unit="%",
    scale=100,
    higher_is_better=True,
    headline=False,
)
L2 = Metric(kind="distance", source="weights", name="l2", label="L2 distance")
MOVED = Metric(
    kind="distance", source="weights", name="moved", label="entries moved", unit="%", scale=100, headline=False
)
KL = Metric(kind="forgotten", source="divergence", name="kl", label="divergence", unit="nats per token")


class Character(NamedTuple):
    """How fast a method forgets, how far it moves and what share of entries it touches, at the same learning."""

    forgets: float
    moves: float
    touched: float


CHARACTER = {
    "adamw": Character(1.0, 1.0, 1.0),
    "mofo": Character(0.72, 0.42, 0.47),
    "mofo-gradient": Character(0.85, 0.45, 0.6),
    "mofo-momentum_over_rms": Character(0.8, 0.55, 0.76),
    "mofo-random": Character(1.15, 0.5, 0.98),
}


def probe_metrics(probes: Numbers) -> list[Metric]:
    """Return the metrics of probes as mofo's own probes describe them."""

    def metric(probe: str, name: str) -> Metric:
        if name == "kl":
            return KL.model_copy(update={"source": probe, "label": probe})
        if name == "loss":
            label, unit = f"{probe} loss", "nats per token"
            return Metric(kind="forgotten", source=probe, name=name, label=label, unit=unit)
        if name == "accuracy":
            return Metric(
                kind="forgotten",
                source=probe,
                name=name,
                label=f"{probe} accuracy",
                unit="percentage points",
                scale=100,
                higher_is_better=True,
                headline=False,
            )
        label = f"{probe} log-probability"
        return Metric(kind="forgotten", source=probe, name=name, label=label, unit="nats", higher_is_better=True)

    return [metric(probe, name) for probe, numbers in probes.items() for name in numbers]


def make_results(
    methods: Sequence[str] = ("adamw", "mofo"),
    learning_rates: Sequence[float] = (5e-5, 1e-4, 2e-4, 3e-4),
    fractions: Sequence[float] = (0.15,),
    seeds: Sequence[int] = (0,),
    steps: int = 60,
    every: int = 20,
    probes: Numbers | None = None,
    noise: float = 0.05,
    character: dict[str, Character] | None = None,
) -> Results:
    """Return a complete comparison over all combinations."""
    forgotten = {**BASE, **(probes or {})}
    base = Point(step=0, learned={TASK: {"loss": 2.11, "accuracy": 0.0}}, forgotten=forgotten)
    runs = [
        _run(method, lr, fraction, seed, steps, every, base, noise, {**CHARACTER, **(character or {})})
        for method in methods
        for lr in learning_rates
        for fraction in ((None,) if method == "adamw" else fractions)
        for seed in seeds
    ]
    return Results(
        complete=True,
        model="smollm2-135m",
        tasks=[Task(name=TASK, data="gsm-symbolic")],
        recipe={"model": "smollm2-135m", "data": "gsm-symbolic", "methods": list(methods), "seeds": list(seeds)},
        plan=Plan(total_steps=steps, training_rows=480, held_out_rows=100, precision="bfloat16"),
        versions={"mofo": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "transformers": "5.23.0"},
        hardware=Hardware(processor="AMD EPYC", cores=2, memory_bytes=25_000_000_000, device="cpu"),
        reference="adamw" if "adamw" in methods else None,
        methods={method: MethodInfo(label=LABELS[method], parts=[method.split("-")[0]]) for method in methods},
        settings=SETTINGS,
        metrics=[LOSS, ANSWERS, *probe_metrics(forgotten), L2, MOVED],
        base=base,
        runs=runs,
    )


SEQUENCE = ("reviews", "proofs", "code")


def make_sequence(
    methods: Sequence[str] = ("adamw", "mofo"),
    seeds: Sequence[int] = (0,),
    references: bool = True,
    scores: bool = True,
    steps: int = 20,
) -> Results:
    """Return a complete comparison of three tasks one after the other, of 20 steps each; AdamW loses more of them."""
    bases = {"reviews": 3.0, "proofs": 2.0, "code": 2.5}
    metrics = [LOSS.model_copy(update={"source": "all tasks", "task": None, "label": "mean held-out loss"})]
    for task in SEQUENCE:
        metrics.append(
            LOSS.model_copy(update={"source": task, "task": task, "label": f"{task} loss", "headline": False})
        )
        if scores:
            metrics.append(ANSWERS.model_copy(update={"source": task, "task": task, "label": f"{task} accuracy"}))

    def point(step: int, task: str | None, losses: dict[str, float], chance: random.Random) -> Point:
        learned: Numbers = {name: {"loss": loss + chance.gauss(0, 0.01)} for name, loss in losses.items()}
        if scores and step % steps == 0:
            for name, loss in losses.items():
                learned[name]["accuracy"] = round(max(0.0, 1 - loss / 4) * 25) / 25
        learned["all tasks"] = {"loss": sum(learned[name]["loss"] for name in losses) / len(losses)}
        lost = 3.0 - losses["reviews"]
        return Point(
            step=step,
            tokens=step * 1024,
            task=task,
            learned=learned,
            forgotten={"divergence": {"kl": 0.1 * lost + chance.gauss(0, 0.005) if step else 0.0}},
            distance=Distance(l2=0.1 * step, moved=0.5),
        )

    def run(method: str, order: str, seed: int) -> Run:
        name = method if order == "sequence" else f"{method}-{order}"
        chance = random.Random(f"{name}{seed}")
        losses, points = dict(bases), []
        for number, task in enumerate(SEQUENCE):
            if order == "alone":
                losses = dict(bases)
            for half in (1, 2):
                for other in SEQUENCE:
                    if other == task or order == "joint":
                        losses[other] = max(0.55 * bases[other], losses[other] - 0.3 * bases[other])
                    elif SEQUENCE.index(other) < number:
                        losses[other] += 0.25 if method == "adamw" else 0.12
                step = number * steps + half * steps // 2
                points.append(point(step, None if order == "joint" else task, losses, chance))
        return Run(name=f"{name}-s{seed}", method=name, settings={"learning_rate": 1e-4}, seed=seed, points=points)

    orders = {"joint": "all tasks at once", "alone": "each task alone"} if references else {}
    infos = {method: MethodInfo(label=LABELS[method], parts=[method]) for method in methods}
    infos |= {
        f"adamw-{order}": MethodInfo(label=f"AdamW, {label}", parts=["adamw"], order=order)
        for order, label in orders.items()
    }
    return Results(
        complete=True,
        model="smollm2-135m",
        tasks=[Task(name=task, data=f"{task}.jsonl") for task in SEQUENCE],
        recipe={"methods": list(methods), "seeds": list(seeds), "points": 2, "steps": steps},
        reference="adamw",
        methods=infos,
        settings=SETTINGS,
        metrics=[*metrics, KL, L2],
        base=point(0, None, bases, random.Random(0)),
        runs=[run(method, "sequence", seed) for method in methods for seed in seeds]
        + [run("adamw", order, seed) for order in orders for seed in seeds],
    )


def make_comparison(**arguments) -> Comparison:
    """Return the comparison of `make_results` with these arguments."""
    return Comparison(make_results(**arguments))


def path_results(runs: dict[tuple[str, float, int], Sequence[tuple[float | None, float | None]]]) -> Results:
    """Return results with base loss 2 and one probe, from points (loss, divergence) by method, rate and seed."""
    return Results(
        complete=True,
        model="model",
        tasks=[Task(name=TASK, data="data")],
        recipe={},
        reference="adamw",
        methods={method: MethodInfo(label=LABELS[method], parts=[method]) for method, _, _ in runs},
        settings=SETTINGS,
        metrics=[LOSS, KL],
        base=Point(step=0, learned={TASK: {"loss": 2.0}}, forgotten={"divergence": {"kl": 0.0}}),
        runs=[
            Run(
                name=f"{method}-{lr}-{seed}",
                method=method,
                settings={"learning_rate": lr},
                seed=seed,
                points=[
                    Point(step=i + 1, learned={TASK: {"loss": loss}}, forgotten={"divergence": {"kl": kl}})
                    for i, (loss, kl) in enumerate(points)
                ],
            )
            for (method, lr, seed), points in runs.items()
        ],
    )


def change_runs(results: Results, change: Callable[[Run], Run]) -> Results:
    """Return results with each run changed."""
    return results.model_copy(update={"runs": [change(run) for run in results.runs]})


def set_path(run: Run, path: Sequence[tuple[float | None, float]]) -> None:
    """Change held-out loss and divergence at the points of a run."""
    for point, (loss, kl) in zip(run.points, path, strict=True):
        point.learned[TASK]["loss"] = loss
        point.forgotten["divergence"]["kl"] = kl


def write_results(folder: Path, results: Results) -> Path:
    """Write results into a folder, which is made, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    write(results, folder)
    return folder


def _run(
    method: str,
    lr: float,
    fraction: float | None,
    seed: int,
    steps: int,
    every: int,
    base: Point,
    noise: float,
    character: dict[str, Character],
) -> Run:
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

    def loss_after(step: int) -> float:
        return 1.225 + 0.885 * math.exp(-1.75 * (step / 20) ** 0.55 * speed**0.4) + 0.006 * speed + shift

    def point(step: int) -> Point:
        loss = loss_after(step)
        learned = 2.11 - loss
        kl = forgets * (0.04 * learned + 0.13 * speed**0.9 * (step / 60) ** 0.6)
        forgotten: Numbers = {}
        for probe, metrics in base.forgotten.items():
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
        return Point(
            step=step,
            tokens=step * 1024,
            task=TASK,
            learned={TASK: {"loss": loss, "accuracy": round(0.2 * learned, 3) if step == steps else None}},
            forgotten=forgotten,
            distance=Distance(l2=moves * 8.9 * lr * 1e4 * (step / steps) ** 0.7, moved=touched),
        )

    layers = ["embed_tokens", *map(str, range(30)), "norm"]
    optimizer = steps * (0.1 if method == "adamw" else 0.21)
    training = steps * 3.1 + optimizer
    return Run(
        name=name,
        method=method,
        settings={"learning_rate": lr} | ({} if fraction is None else {"fraction": fraction}),
        seed=seed,
        points=[point(step) for step in range(every, steps + 1, every)],
        training=[
            TrainingStep(step=step, loss=loss_after(step) + chance.gauss(0, 0.05), learning_rate=lr)
            for step in range(5, steps + 1, 5)
        ],
        distance=FinalDistance(
            l2=moves * 8.9 * lr * 1e4,
            relative=0.004,
            moved=touched,
            layers=[
                LayerDistance(
                    layer=layer,
                    l2=noisy(moves * lr * 1e4 * (2.4 if i == 0 else 0.2 if layer == "norm" else 1.2 + 0.02 * i)),
                    moved=min(1.0, noisy(touched * (0.4 if i == 0 else 1.0))),
                    parameters=28_311_552 if i == 0 else 576 if layer == "norm" else 3_540_096,
                )
                for i, layer in enumerate(layers)
            ],
        ),
        seconds=Seconds(
            optimizer=noisy(optimizer), training=noisy(training), measuring=58.0, total=noisy(training) + 60
        ),
        peak_memory_bytes=3_100_000_000,
    )

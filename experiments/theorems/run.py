"""Theorems 1 and 2 of the paper: how fast the gradient falls on full-batch problems. Takes ten minutes on a core.

Usage: python experiments/theorems/run.py

Writes results.json and rates.png beside itself. Theorem 1 (MoFO with 0 < β1 < √β2 < 1 and the step size η/√t) bounds
the least ‖∇L‖_{1,top-α} and ‖∇L‖_p of the first T steps by O(log T / √T); Theorem 2 (gradient descent that moves the
entries with the largest gradient, with a constant step size) by O(1/√T).
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.nn import functional as F

from mofo import MoFO

HERE = Path(__file__).parent
STEPS = 30_000
FRACTION = 0.1
BETAS = [(0.9, 0.999), (0.9, 0.95), (0.99, 0.9), (0.9, 0.5)]
NORMS = ("top", "1", "2", "inf")
SHOWN = sorted({round(10 ** (k / 12)) for k in range(math.floor(12 * math.log10(STEPS)) + 1)} | {STEPS})


def inputs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return 200 rows of 40 numbers and labels that no line separates."""
    x = torch.randn(200, 40, generator=generator, dtype=torch.float64)
    y = (x @ torch.randn(40, generator=generator, dtype=torch.float64)).sign()
    flipped = torch.rand(200, generator=generator) < 0.1
    return x, torch.where(flipped, -y, y)


def logistic(generator: torch.Generator) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    x, y = inputs(generator)
    return torch.zeros(40, dtype=torch.float64), lambda theta, rows: F.softplus(-y[rows] * (x[rows] @ theta)).mean()


def network(generator: torch.Generator) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """Return a network of 8 tanh units on the same data: not convex."""
    x, y = inputs(generator)
    start = 0.5 * torch.randn(41 * 8 + 9, generator=generator, dtype=torch.float64)

    def loss(theta: Tensor, rows: Tensor) -> Tensor:
        hidden = torch.tanh(x[rows] @ theta[: 40 * 8].view(40, 8) + theta[320:328])
        return F.softplus(-y[rows] * (hidden @ theta[328:336] + theta[336])).mean()

    return start, loss


PROBLEMS = {"logistic regression": logistic, "small network": network}


class FilteredGradientDescent(torch.optim.Optimizer):
    """θ ← θ − η·(g ∘ FLT_α(g)): the method of Theorem 2."""

    def __init__(self, params: list[Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                chosen = p.grad.abs().topk(max(1, int(FRACTION * p.numel()))).indices
                p[chosen] -= group["lr"] * p.grad[chosen]


def least_norms(
    name: str, problem: str, *, batch: int | None = None, decreasing: bool = True
) -> dict[str, list[float]]:
    """Return for each norm of the full gradient the least so far, at the steps of SHOWN."""
    generator = torch.Generator().manual_seed(0)
    theta, loss = PROBLEMS[problem](generator)
    theta.requires_grad_()
    if name == "filtered GD":
        rate, decreasing, optimizer = 1.0, False, FilteredGradientDescent([theta], lr=1.0)
    else:
        beta1, beta2 = map(float, name.split())
        rate = 0.05 if decreasing else 0.005
        optimizer = MoFO([theta], lr=rate, fraction=FRACTION, betas=(beta1, beta2))
    every = torch.arange(200)
    k = max(1, int(FRACTION * theta.numel()))
    least = dict.fromkeys(NORMS, math.inf)
    found: dict[str, list[float]] = {norm: [] for norm in NORMS}
    shown = set(SHOWN)
    for t in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = rate / math.sqrt(t) if decreasing else rate
        optimizer.zero_grad()
        loss(theta, every).backward()
        size = theta.grad.abs()
        now = {"top": size.topk(k).values.sum(), "1": size.sum(), "2": size.norm(), "inf": size.max()}
        least = {norm: min(least[norm], float(now[norm])) for norm in NORMS}
        if batch is not None:
            optimizer.zero_grad()
            loss(theta, torch.randint(200, (batch,), generator=generator)).backward()
        optimizer.step()
        if t in shown:
            for norm in NORMS:
                found[norm].append(float(f"{least[norm]:.4g}"))
    return found


def slope(values: list[float]) -> float:
    """Return the slope of log least norm against log T over the second half of the axis."""
    half = [(math.log(t), math.log(v)) for t, v in zip(SHOWN, values, strict=True) if t >= math.sqrt(STEPS)]
    mean_x, mean_y = (sum(column) / len(half) for column in zip(*half, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in half) / sum((x - mean_x) ** 2 for x, _ in half)


def bound_ratio(values: list[float], logarithm: bool) -> float:
    """Return the last value of least norm ÷ rate, over its largest: far below 1 where the norm falls faster."""
    rates = [(math.log(t + 1) if logarithm else 1.0) / math.sqrt(t) for t in SHOWN]
    ratios = [value / rate for value, rate in zip(values, rates, strict=True)]
    return ratios[-1] / max(ratios)


def main() -> None:
    results = {}
    runs = [(f"{b1} {b2}", {}) for b1, b2 in BETAS] + [("filtered GD", {})]
    broken = [("0.9 0.999", {"batch": 8}), ("0.9 0.999", {"decreasing": False})]
    for problem in PROBLEMS:
        for name, how in runs + broken:
            label = label_of(name, how)
            values = least_norms(name, problem, **how)
            results.setdefault(problem, {})[label] = {
                "steps": SHOWN,
                "least": values,
                "slope": {norm: slope(values[norm]) for norm in NORMS},
                "last of its ratio to the bound's rate, over its largest": {
                    norm: bound_ratio(values[norm], name != "filtered GD") for norm in NORMS
                },
            }
            print(problem, label, {norm: f"{slope(values[norm]):.2f}" for norm in NORMS}, flush=True)
    (HERE / "results.json").write_text(json.dumps(results) + "\n")
    draw(results, HERE / "rates.png")


def label_of(name: str, how: dict) -> str:
    if name == "filtered GD":
        return "Theorem 2: filtered gradient descent"
    beta1, beta2 = map(float, name.split())
    inside = "β1 < √β2" if beta1 < math.sqrt(beta2) else "β1 ≥ √β2"
    what = ", batches of 8 of 200 rows" if "batch" in how else ", constant step size" if how else ""
    return f"MoFO, β1 {beta1:g}, β2 {beta2:g} ({inside}){what}"


def draw(results: dict, file: Path) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(11, 6.2), constrained_layout=True, sharey=True)
    for axes, (problem, runs) in zip(panels, results.items(), strict=True):
        for number, (label, run) in enumerate(runs.items()):
            axes.loglog(
                run["steps"], run["least"]["top"], label=f"{label}: slope {run['slope']['top']:.2f}", color=f"C{number}"
            )
        start = max(run["least"]["top"][0] for run in runs.values())
        rate = [start * math.log(t + 1) / math.log(2) / math.sqrt(t) for t in SHOWN]
        axes.loglog(SHOWN, rate, "k--", linewidth=1, label="log T / √T, the bound's rate")
        axes.set(title=f"{problem}, α = {FRACTION:g}", xlabel="T", ylabel="least ‖∇L‖ (1, top-α) of T steps")
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14))
        axes.grid(alpha=0.2)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

"""Example 1 and Proposition 1 of the paper: which minimum does an optimizer walk to? Takes a minute on two cores.

Usage: python experiments/example1/run.py

Writes results.json and landscape.png beside itself.
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from mofo import MoFO

HERE = Path(__file__).parent
DIMENSIONS = (2, 3, 5, 10)
TRIALS = 500
STEPS = 4000
CONVERGED = 1e-6
"""Of the loss at the start: a trial that ends above it reached no minimum and is counted apart."""


def loss(theta: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return Π_i (a_i·θ_i − b_i)² of each row, divided by its value at θ = 0."""
    return ((a * theta - b) / b).square().prod(dim=1)


def walk(optimizer_name: str, a: torch.Tensor, b: torch.Tensor) -> list[torch.Tensor]:
    """Return θ, (trials, dimensions), at every step; each trial is a row, and a block of MoFO's."""
    theta = torch.zeros_like(a, requires_grad=True)
    trials, dimensions = a.shape
    optimizer = {
        "GD": lambda: torch.optim.SGD([theta], lr=0.002),
        "Adam": lambda: torch.optim.Adam([theta], lr=0.002),
        "MoFO": lambda: MoFO([theta], lr=0.002, fraction=1 / dimensions, blocks=trials, decay="selected"),
    }[optimizer_name]()
    path = [theta.detach().clone()]
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(theta, a, b).sum().backward()  # the trials share no parameter, so each is minimised alone
        optimizer.step()
        path.append(theta.detach().clone())
    return path


def proposition() -> dict:
    """Return ½‖θ‖² at the end of each optimizer, over random a and b, for several dimensions."""
    found = {}
    for dimensions in DIMENSIONS:
        generator = torch.Generator().manual_seed(dimensions)
        a, b = (0.5 + 1.5 * torch.rand(TRIALS, dimensions, generator=generator, dtype=torch.float64) for _ in "ab")
        ends = {name: walk(name, a, b)[-1] for name in ("GD", "Adam", "MoFO")}
        reached = {name: loss(theta, a, b) < CONVERGED for name, theta in ends.items()}
        everywhere = torch.stack(list(reached.values())).all(dim=0)
        cost = {name: theta.square().sum(dim=1)[everywhere] / 2 for name, theta in ends.items()}
        nearest = (b / a).min(dim=1).values[everywhere].square() / 2
        found[str(dimensions)] = {
            "trials": TRIALS,
            "reached a minimum": {name: int(value.sum()) for name, value in reached.items()},
            "compared": int(everywhere.sum()),
            "pre-training loss at the end, mean": {name: value.mean().item() for name, value in cost.items()},
            "that of the nearest minimum, mean": nearest.mean().item(),
            "MoFO ends lower than Adam": (cost["MoFO"] < cost["Adam"]).double().mean().item(),
            "MoFO ends lower than GD": (cost["MoFO"] < cost["GD"]).double().mean().item(),
            "MoFO ends at the nearest minimum": (cost["MoFO"] < nearest * 1.01).double().mean().item(),
        }
    return found


def draw(file: Path) -> None:
    """Draw the landscape of a = (1, 1), b = (1, 1.3) with the paths, as figure 4 of the paper."""
    a, b = torch.tensor([[1.0, 1.0]], dtype=torch.float64), torch.tensor([[1.0, 1.3]], dtype=torch.float64)
    axis = torch.linspace(-0.2, 1.6, 300, dtype=torch.float64)
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    points = torch.stack([x.flatten(), y.flatten()], dim=1)
    height = loss(points, a, b).view_as(x).clamp(min=1e-6).log10()
    figure, axes = plt.subplots(figsize=(6.4, 5.2), constrained_layout=True)
    surface = axes.contourf(x, y, height, levels=24, cmap="Greys_r")
    figure.colorbar(surface, label="log10 of the fine-tuning loss, 1 at the start")
    for radius in (0.5, 1.0, 1.5):
        axes.add_patch(plt.Circle((0, 0), radius, fill=False, color="#888888", linestyle=":", linewidth=0.8))
    for name, colour in (("GD", "#e69f00"), ("Adam", "#d55e00"), ("MoFO", "#0072b2")):
        path = torch.cat(walk(name, a, b))
        cost = path[-1].square().sum().item() / 2
        axes.plot(path[:, 0], path[:, 1], color=colour, linewidth=2, label=f"{name}: ½‖θ‖² = {cost:.2f} at the end")
        axes.plot(*path[-1], "o", color=colour)
    axes.plot(0, 0, "k*", markersize=12, label="pre-trained")
    axes.set(xlabel="θ₁", ylabel="θ₂", xlim=(-0.2, 1.6), ylim=(-0.2, 1.6), aspect="equal")
    axes.set_title("(θ₁ − 1)² · (θ₂ − 1.3)²: circles are equal pre-training loss", fontsize=10)
    axes.legend(loc="upper left", fontsize=8)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = proposition()
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    draw(HERE / "landscape.png")

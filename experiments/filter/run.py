"""Figure 3 of the paper: the filter at work on one matrix of a real run.

Usage: python experiments/filter/run.py [--model MODEL] [--data ROWS] [--matrix NAME] [--steps N] [--output FOLDER]

Fine-tunes the model with MoFO for a few steps, writes what the momentum of one matrix was and which of its entries
moved, and draws it: results.json and filter.png.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap, LogNorm

from mofo import MoFO, param_groups
from mofo.data.order import batch_order
from mofo.data.rows import load_rows
from mofo.data.tokens import encode, has_labels
from mofo.models.load import load_model

HERE = Path(__file__).parent
ROWS = 5  # of a step, as in experiments/gsm8k
MAX_LENGTH = 512
LEARNING_RATE = 2e-4
FRACTION = 0.15
PATCH = 40  # rows and columns of the matrix that are shown
SHOWN = 3  # steps that are shown in full: the first, one between, the last
BINS = 60


def run(model_name: str, data: str, matrix: str, steps: int) -> dict:
    """Return what happened to a matrix: a record for each step, and the momentum itself for some."""
    model, tokenizer = load_model(model_name)
    examples = [encode(row, tokenizer, MAX_LENGTH) for row in load_rows(data, limit=500)]
    examples = [example for example in examples if has_labels(example)]
    order = batch_order([len(e["input_ids"]) for e in examples], steps=steps, batch=ROWS, seed=0)
    optimizer = MoFO(param_groups(model, fraction=FRACTION), lr=LEARNING_RATE)
    weight = dict(model.named_parameters())[matrix]
    start, before = weight.detach().clone(), torch.zeros_like(weight, dtype=torch.bool)
    model.train()
    shown = {round(1 + i * (steps - 1) / (SHOWN - 1)) for i in range(SHOWN)}
    records = []
    for step in range(1, steps + 1):
        old = weight.detach().clone()
        losses = []
        for row in order[(step - 1) * ROWS : step * ROWS]:
            ids, labels = (torch.tensor([examples[row][key]]) for key in ("input_ids", "labels"))
            loss = model(input_ids=ids, labels=labels).loss / ROWS
            loss.backward()
            losses.append(float(loss.detach()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        size = optimizer.state[weight]["exp_avg"].abs()
        moved = weight.detach() != old
        records.append(record(step, sum(losses), size, moved, before, weight.detach() != start))
        if step in shown:
            patch = slice(0, PATCH), slice(0, PATCH)
            so_far = moved.int() * 2 + (weight.detach() != start).int()
            records[-1] |= {"momentum": shortened(size[patch]), "entries": so_far[patch].clamp(max=2).tolist()}
        before = moved
    return {"model": model_name, "matrix": matrix, "shape": list(weight.shape), "fraction": FRACTION, "steps": records}


def record(
    step: int, loss: float, size: torch.Tensor, moved: torch.Tensor, before: torch.Tensor, ever: torch.Tensor
) -> dict:
    """Return the numbers of a step: the least momentum that moved, shares of the entries, and a histogram."""
    k = max(1, int(FRACTION * size.numel()))
    positive = size[size > 0]
    edges = torch.logspace(*positive.log10().quantile(torch.tensor([0.001, 1.0])).tolist(), BINS + 1)
    return {
        "step": step,
        "training loss": loss,
        "threshold": float(size.flatten().topk(k).values[-1]),
        "moved": float(moved.double().mean()),
        "moved so far": float(ever.double().mean()),
        "moved in the step before too": float((moved & before).sum() / moved.sum()),
        "edges": shortened(edges),
        "counts": torch.histogram(positive, edges).hist.int().tolist(),
    }


def shortened(values: torch.Tensor) -> list:
    """Return numbers with four digits, nested as the tensor is."""
    rounded = np.vectorize(lambda value: float(f"{value:.4g}"))(values.numpy())
    return rounded.tolist()


def draw(results: dict, file: Path) -> None:
    full = [step for step in results["steps"] if "momentum" in step]
    low, high = (np.percentile([step["momentum"] for step in full], share) for share in (2, 99.9))
    figure, panels = plt.subplots(
        3, SHOWN, figsize=(9.6, 8.8), height_ratios=(1, 1, 0.7), sharex="row", layout="constrained"
    )
    colours = ListedColormap(["#f2f2f2", "#9ecae1", "#08519c"])
    for column, step in enumerate(full):
        top, middle, bottom = panels[:, column]
        shade = top.imshow(step["momentum"], norm=LogNorm(max(low, 1e-12), high), cmap="viridis")
        top.set_title(f"step {step['step']}", fontsize=11)
        middle.imshow(step["entries"], cmap=colours, vmin=0, vmax=2)
        middle.set_title(f"{step['moved']:.1%} move, {step['moved so far']:.1%} so far", fontsize=9)
        edges, counts = step["edges"], step["counts"]
        chosen = [n if edge >= step["threshold"] else 0 for n, edge in zip(counts, edges, strict=False)]
        bottom.stairs(counts, edges, fill=True, color="#cccccc")
        bottom.stairs(chosen, edges, fill=True, color="#08519c")
        bottom.axvline(step["threshold"], color="#d55e00", label="threshold")
        bottom.set_title(f"threshold {step['threshold']:.2g}", fontsize=9, color="#d55e00")
        bottom.set(xscale="log", xlabel="momentum |m|, whole matrix", yticks=[])
        for axes in (top, middle):
            axes.set(xticks=[], yticks=[])
    panels[0, 0].set_ylabel("momentum |m|")
    panels[1, 0].set_ylabel("what moves")
    panels[2, 0].set_ylabel("entries")
    figure.colorbar(shade, ax=panels[0, :], label="|m|, log scale")
    marks = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.colors[::-1]]
    labels = ["moves in this step", "moved before, rests now", "as in the base"]
    figure.legend(marks, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    rows, columns = (min(PATCH, size) for size in results["shape"])
    figure.suptitle(
        f"{results['matrix']}: {results['shape'][0]} × {results['shape'][1]}, of which {rows} × {columns} are shown; "
        f"α = {results['fraction']:g}",
        fontsize=11,
    )
    figure.savefig(file, dpi=140)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", default="runs/evidence-data/math-train.jsonl")
    parser.add_argument("--matrix", default="model.layers.15.mlp.down_proj.weight")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--output", type=Path, default=HERE)
    arguments = parser.parse_args()
    results = run(arguments.model, arguments.data, arguments.matrix, arguments.steps)
    for step in results["steps"]:
        numbers = {name: step[name] for name in ("training loss", "threshold", "moved", "moved so far")}
        print(step["step"], {name: f"{value:.3g}" for name, value in numbers.items()})
    (arguments.output / "results.json").write_text(json.dumps(results) + "\n")
    draw(results, arguments.output / "filter.png")


if __name__ == "__main__":
    main()

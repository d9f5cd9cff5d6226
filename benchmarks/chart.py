"""Draws docs/step_time.png from benchmarks/results/step_time-cpu.json.

Usage: python benchmarks/chart.py
"""

import json
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
COLORS = {1: "#9ecae1", 2: "#2171b5"}


def draw(result):
    """Horizontal bars: how many times fused AdamW's step each contender takes, for each number of threads."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    runs = result["runs"]
    names = [row["contender"] for row in runs[0]["rows"]][::-1]
    height = 0.8 / len(runs)
    for place, run in enumerate(runs):
        ratios = {row["contender"]: row for row in run["rows"]}
        positions = [y + (len(runs) / 2 - place - 0.5) * height for y in range(len(names))]
        values = [ratios[name]["ratio_to_fused_adamw"] for name in names]
        threads = run["threads"]
        label = f"{threads} thread{'s' if threads > 1 else ''}"
        bars = axes.barh(positions, values, height, label=label, color=COLORS.get(threads, "#08306b"))
        axes.bar_label(
            bars, [f"{value:.2f}" if value < 10 else f"{value:.0f}" for value in values], padding=3, fontsize=8
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_xscale("log")
    axes.set_xlim(0.5, 1.6 * max(row["ratio_to_fused_adamw"] for run in runs for row in run["rows"]))
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 40], ["0.5", "1", "2", "5", "10", "20", "40"])
    axes.minorticks_off()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("time of a step ÷ that of torch.optim.AdamW(fused=True), median of paired rounds")
    axes.set_title(f"SmolLM2-135M, float32, {result['device']}", fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main():
    result = json.loads((ROOT / "benchmarks/results/step_time-cpu.json").read_text())
    draw(result).savefig(ROOT / "docs/step_time.png", dpi=160)


if __name__ == "__main__":
    main()

"""Figures 2 and 5 of the paper, from the results of the methods' experiment.

Usage: python experiments/methods/figures.py [FOLDER]

Reads results.json of FOLDER (experiments/methods/results); writes distance.png, front.png and figures.json beside it.

Figure 2: the distance from the base against what was forgotten, for every measured point of every run, with the
correlation. Figure 5: what was learned against what was forgotten at the end of each configuration, and the front of
those that no other beats in both. Both show where the models are that learned nearly as much as the best, and count
what lies outside.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator
from scipy.stats import spearmanr

from mofo.report.comparison import Comparison
from mofo.report.formatting import with_unit
from mofo.results import Metric, load_results

HERE = Path(__file__).parent
DRAWS = 2000
FORGOTTEN = [("text", "loss"), ("choice", "accuracy"), ("wikitext2", "loss"), ("divergence", "kl")]
"""Probes by which forgetting is judged, and their numbers; those that were not measured are left out."""

NEARLY = 0.8
"""Share of the most that any configuration learned from which on a panel must show it."""


def distances(comparison: Comparison, metric: Metric) -> list[dict]:
    """Return each measured point of each run: method, run, distance from the base and change of a metric from it."""
    before = metric.of(comparison.results.base)
    found = []
    for run in comparison.runs:
        for point in run.points:
            after = metric.of(point)
            if before is None or after is None or point.distance is None or point.distance.l2 is None:
                continue
            change = (after - before) * metric.scale
            found.append({"method": run.method, "run": run.name, "distance": point.distance.l2, "change": change})
    return found


def correlation(points: Sequence[dict]) -> dict:
    """Return Spearman's correlation of distance and change, with a 95 % interval.

    Points of a run are not independent, so runs are drawn with replacement, not points (a cluster bootstrap).
    """
    runs = defaultdict(list)
    for point in points:
        runs[point["run"]].append((point["distance"], point["change"]))
    clusters = [np.array(run) for run in runs.values()]
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        sample = np.concatenate([clusters[i] for i in generator.integers(len(clusters), size=len(clusters))])
        drawn.append(rank_correlation(sample))
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    rho = rank_correlation(np.concatenate(clusters))
    return {"rho": rho, "low": float(low), "high": float(high), "points": len(points), "runs": len(runs)}


def rank_correlation(pairs: np.ndarray) -> float:
    """Return Spearman's ρ of two columns; NaN where one of them is constant."""
    if len(set(pairs[:, 0])) < 2 or len(set(pairs[:, 1])) < 2:
        return math.nan
    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def ends(comparison: Comparison, metric: Metric) -> list[dict]:
    """Return the end of each configuration: what was learned and forgotten, as means over its seeds."""
    before, learning = metric.of(comparison.results.base), comparison.learning
    found = []
    for method in comparison.methods:
        for configuration in comparison.of_method(method):
            pairs = [(learning.of(run.points[-1]), metric.of(run.points[-1])) for run in configuration.runs]
            known = [(learned, kept) for learned, kept in pairs if learned is not None and kept is not None]
            if before is None or len(known) < len(pairs):
                continue
            found.append(
                {
                    "method": method,
                    "settings": comparison.settings_text(configuration),
                    "seeds": len(known),
                    "learned": fmean(learned for learned, _ in known),
                    "change": (fmean(kept for _, kept in known) - before) * metric.scale,
                }
            )
    signs = (-1 if learning.higher_is_better else 1, -1 if metric.higher_is_better else 1)
    keys = [(signs[0] * end["learned"], signs[1] * end["change"]) for end in found]
    for end, on_front in zip(found, front(keys), strict=True):
        end["on front"] = on_front
    return found


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each point whether no other is at least as low in both numbers and lower in one."""
    return [not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points) for x, y in points]


def highest_shown(comparison: Comparison) -> float:
    """Return the held-out loss of a model that learned nearly as much as the best end of a run."""
    losses = [loss for run in comparison.runs if (loss := comparison.loss(run.points[-1])) is not None]
    return NEARLY * min(losses) + (1 - NEARLY) * comparison.base_loss


def focus(axes: plt.Axes, points: Sequence[tuple[float, float]], shown: Sequence[tuple[float, float]]) -> None:
    """Limit a panel to some of its points, and add to its title how many of all lie outside.

    Args:
        axes: The panel; its axes keep their direction.
        points: All points.
        shown: Those that must be inside.
    """
    (left, right), (low, high) = ((min(values), max(values)) for values in zip(*shown, strict=True))
    left, right = (left / 1.15, right * 1.15) if axes.get_xscale() == "log" else widened(left, right)
    low, high = widened(min(low, 0.0), max(high, 0.0))
    outside = sum(not (left <= x <= right and low <= y <= high) for x, y in points)
    axes.set_xlim((right, left) if axes.xaxis_inverted() else (left, right))
    axes.set_ylim((high, low) if axes.yaxis_inverted() else (low, high))
    if outside:
        axes.set_title(
            f"{axes.get_title()}; {outside} of {len(points)} points lie outside", fontsize=9, color="#555555"
        )


def widened(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * (high - low) or 0.05
    return low - margin, high + margin


def draw_distances(comparison: Comparison, metrics: Sequence[Metric], file: Path) -> dict:
    """Draw figure 2, a panel for each metric, and return the correlations."""
    figure, panels = panels_for(metrics)
    found = {}
    ends_at = {run.name: comparison.loss(run.points[-1]) for run in comparison.runs}
    near = {name for name, loss in ends_at.items() if loss is not None and loss <= highest_shown(comparison)}
    for axes, metric in zip(panels, metrics, strict=False):
        points = distances(comparison, metric)
        found[metric.label] = correlation(points)
        for method in comparison.methods:
            own = [point for point in points if point["method"] == method]
            style = comparison.styles[method]
            axes.scatter(
                [point["distance"] for point in own],
                [point["change"] for point in own],
                color=style.colour,
                marker=style.marker,
                s=22,
                alpha=0.8,
                label=comparison.label(method),
            )
        rho = found[metric.label]
        axes.set_title(f"Spearman's ρ = {rho['rho']:.2f} [{rho['low']:.2f}, {rho['high']:.2f}]", fontsize=9)
        axes.set(xscale="log", xlabel="L2 distance from the base", ylabel=change_label(metric))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        shown = [point for point in points if point["run"] in near]
        focus(axes, *([(point["distance"], point["change"]) for point in some] for some in (points, shown)))
        finish(axes)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(file, dpi=140)
    return found


def draw_front(comparison: Comparison, metrics: Sequence[Metric], file: Path) -> dict:
    """Draw figure 5, a panel for each metric, and return the configurations."""
    figure, panels = panels_for(metrics)
    found, learning = {}, comparison.learning
    for axes, metric in zip(panels, metrics, strict=False):
        found[metric.label] = ends(comparison, metric)
        for end in found[metric.label]:
            style = comparison.styles[end["method"]]
            axes.scatter(
                end["learned"] * learning.scale,
                end["change"],
                color=style.colour,
                marker=style.marker,
                s=44 if end["on front"] else 26,
                alpha=1.0 if end["on front"] else 0.25,
                zorder=3 if end["on front"] else 2,
            )
        edge = sorted(
            (end["learned"] * learning.scale, end["change"]) for end in found[metric.label] if end["on front"]
        )
        axes.plot(*zip(*edge, strict=True), color="#888888", lw=1, zorder=1)
        axes.set(xlabel=with_unit(learning.label, learning.unit), ylabel=change_label(metric))
        if not learning.higher_is_better:
            axes.invert_xaxis()  # learned more: to the right
        if not metric.higher_is_better:
            axes.invert_yaxis()  # forgot less: up
        axes.set_title("right: learned more, up: forgot less", fontsize=9, color="#555555")
        shown = [end for end in found[metric.label] if comparison.as_loss(end["learned"]) <= highest_shown(comparison)]
        every, near = (
            [(end["learned"] * learning.scale, end["change"]) for end in some] for some in (found[metric.label], shown)
        )
        focus(axes, every, near)
        finish(axes)
    marks = [
        plt.Line2D([], [], color=style.colour, marker=style.marker, ls="", label=comparison.label(method))
        for method, style in ((method, comparison.styles[method]) for method in comparison.methods)
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(file, dpi=140)
    return found


def panels_for(metrics: Sequence[Metric]) -> tuple[plt.Figure, list[plt.Axes]]:
    """Return a figure with a panel for each metric, two in a row."""
    rows = math.ceil(len(metrics) / 2)
    figure, panels = plt.subplots(rows, 2, figsize=(9.6, 4.2 * rows + 0.6), layout="constrained", squeeze=False)
    for axes in panels.flat[len(metrics) :]:
        axes.remove()
    return figure, list(panels.flat)


def change_label(metric: Metric) -> str:
    return f"{metric.label}\n{with_unit('change from the base', metric.unit)}"


def finish(axes: plt.Axes) -> None:
    axes.axhline(0, color="#aaaaaa", lw=0.8, zorder=0)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)


def draw(folder: Path) -> None:
    comparison = Comparison(load_results(folder))
    by_name = {(metric.source, metric.name): metric for metric in comparison.results.metrics}
    metrics = [by_name[name] for name in FORGOTTEN if name in by_name]
    results = {
        "distance": draw_distances(comparison, metrics, folder / "distance.png"),
        "front": draw_front(comparison, metrics, folder / "front.png"),
    }
    (folder / "figures.json").write_text(json.dumps(results, indent=1) + "\n")
    for label, rho in results["distance"].items():
        print(f"{label}: Spearman's rho {rho['rho']:.2f} [{rho['low']:.2f}, {rho['high']:.2f}], {rho['runs']} runs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparison", nargs="?", type=Path, default=HERE / "results")
    draw(parser.parse_args().comparison)


if __name__ == "__main__":
    main()

"""Print what a learning rate taken without a sweep costs: for each method and rate, how much of the best was learned.

Usage: python experiments/evidence/rates.py COMPARISON [COMPARISON ...]

All methods that every comparison has, by what tuning measured with its first seed. A cell is the share of the fall in
held-out loss that the method's best rate reached, and the divergence from the base on other prompts at the end. The
last column is the least share over comparisons that ran this rate.
"""

import argparse
from pathlib import Path

from table import is_divergence

from mofo.report.formatting import markdown_table, setting_value
from mofo.results import load_results

RATE = "learning_rate"


def by_rate(results):
    """The run of the first seed at each learning rate of each method, in the setting that tuning chose."""
    first = min(run.seed for run in results.runs)
    chosen = {run.method: run.settings for run in results.runs if run.seed != first}
    found = {}
    for run in results.runs:
        if run.seed == first and run.method in chosen and chosen[run.method] | {RATE: 0} == run.settings | {RATE: 0}:
            found.setdefault(results.methods[run.method].label, {})[run.settings[RATE]] = run
    return found


def fall(results, run):
    """How far the held-out loss fell below the base's."""
    return results.learning.of(results.base) - results.learning.of(run.points[-1])


def other_prompts(results, run):
    """The divergence from the base on its answers to prompts of other domains."""
    metric = [metric for metric in results.metrics if is_divergence(metric)][-1]
    return metric.of(run.points[-1])


def table(comparisons):
    """Rows of one line a method and rate, with one cell for each comparison."""
    runs = [by_rate(results) for results in comparisons]
    methods = [method for method in runs[0] if all(method in found for found in runs)]
    for method in methods:
        for rate in sorted({rate for found in runs for rate in found[method]}):
            cells, shares = [], []
            for results, found in zip(comparisons, runs, strict=True):
                if rate not in found[method]:
                    cells.append("")
                    continue
                best = max(fall(results, run) for run in found[method].values())
                shares.append(fall(results, found[method][rate]) / best)
                cells.append(f"{100 * shares[-1]:.0f} %, {other_prompts(results, found[method][rate]):.3f}")
            least = f"{100 * min(shares):.0f} %" if len(shares) == len(comparisons) else ""
            yield [method, setting_value(rate), *cells, least]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparisons", nargs="+", type=Path)
    folders = parser.parse_args().comparisons
    comparisons = [load_results(folder) for folder in folders]
    heads = ["method", "learning rate", *(folder.parent.name for folder in folders), "least"]
    print(markdown_table([heads, ["---"] * len(heads), *table(comparisons)]), end="")


if __name__ == "__main__":
    main()

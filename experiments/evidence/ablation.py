"""Tables and picture of an ablation: variants of a method at one learning rate, as in the paper, and at equal learning.

Usage: python experiments/evidence/ablation.py COMPARISON [--over fraction]

A variant is a method, or a method with one value of the setting that `--over` names. Prints two tables: the ends of the
first seed's runs at each learning rate that all variants have, and the variants with their own learning rates at equal
learning (that of table.py). Writes ablation.png beside the results.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from table import amounts, is_divergence, lines, only_tuned

from mofo.report.comparison import Comparison
from mofo.report.formatting import markdown_table, measured, setting_value, with_unit
from mofo.report.fronts import common_loss
from mofo.report.spread import pool
from mofo.results import load_results

RATE = "learning_rate"
SHADES = ("#9ecae1", "#4292c6", "#08519c", "#08306b")
"""Of learning rates, from the lowest."""


def variants_apart(results, setting):
    """Results with each value of a setting as a method of its own, in ascending order; methods without it follow."""
    if setting is None:
        return results
    methods, runs = {}, []
    for run in sorted(results.runs, key=lambda run: (run.settings.get(setting) is None, run.settings.get(setting))):
        method, name = results.methods[run.method], run.method
        settings = dict(run.settings)
        if setting in settings:
            value = settings.pop(setting)
            name = f"{run.method}-{value}"
            method = method.model_copy(update={"label": f"{method.label}, {setting_value(value)}"})
        methods[name] = method
        runs.append(run.model_copy(update={"method": name, "settings": settings}))
    return results.model_copy(update={"methods": methods, "runs": runs})


def ends_by_rate(comparison):
    """The run of the first seed by learning rate and method, at the rates that all methods have."""
    first = min(run.seed for run in comparison.runs)
    found = {}
    for run in comparison.runs:
        if run.seed == first:
            found.setdefault(run.settings[RATE], {})[run.method] = run
    return {rate: found[rate] for rate in sorted(found) if set(found[rate]) == set(comparison.methods)}


def shown(comparison):
    """What is shown of an end: held-out loss, divergence on base text, and the distance."""
    divergence = next(metric for metric in comparison.probe_headlines if is_divergence(metric))
    return [comparison.learning, divergence, *comparison.distance_headlines]


def one_rate_table(comparison):
    """Lines of the table at one learning rate."""
    metrics, runs = shown(comparison), ends_by_rate(comparison)

    def cell(run):
        found = [comparison.amount(metric, run.points[-1]) for metric in metrics]
        return " · ".join(measured(pool([n]), metric) for n, metric in zip(found, metrics, strict=True))

    yield f"{' · '.join(metric.label for metric in metrics)} at the end, first seed:"
    yield ""
    rows = [
        [comparison.label(method), *(cell(ends[method]) for ends in runs.values())] for method in comparison.methods
    ]
    heads = ["", *(f"at {setting_value(rate)}" for rate in runs)]
    yield markdown_table([heads, ["---"] * len(heads), *rows])


def draw(comparison, tuned, file, line):
    """Draw what the tables say: a panel for each number of the ends, and one at equal learning.

    `line` is matplotlib's format of runs at one learning rate: joined where variants have an order.
    """
    metrics, runs, methods = shown(comparison), ends_by_rate(comparison), comparison.methods
    repeated = {method: tuned.of_method(method)[0] for method in methods if method in tuned.methods}
    places = [methods.index(method) for method in repeated]
    figure, panels = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
    for axes, metric in zip(panels.flat, metrics, strict=False):
        for (rate, ends), shade in zip(runs.items(), SHADES, strict=False):
            values = [comparison.amount(metric, ends[method].points[-1]) for method in methods]
            axes.plot(values, line, ms=4, lw=1.2, color=shade, label=f"{setting_value(rate)}, first seed")
        mark(axes, places, [tuned.at_end(configuration, metric) for configuration in repeated.values()])
        axes.set_title(f"{metric.label} at the end", fontsize=9, loc="left")
    axes, divergence, target = panels.flat[-1], metrics[1], common_loss(tuned, list(repeated))
    mark(axes, places, [amounts(tuned, own, target, divergence) for own in repeated.values()])
    axes.set_title(f"{divergence.label} at held-out loss {tuned.loss_text(target)}", fontsize=9, loc="left")
    axes.set_ylim(bottom=0)
    for axes, metric in zip(panels.flat, [*metrics, divergence], strict=False):
        axes.set_ylabel(with_unit(metric.label, metric.unit))
        axes.set_xticks(range(len(methods)), map(comparison.label, methods), rotation=20, ha="right", fontsize=8)
        axes.set_xlim(-0.3, len(methods) - 0.7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(file, dpi=140)
    plt.close(figure)


def mark(axes, places, found):
    """Mark means over seeds with their standard deviations."""
    means, spread = zip(*((pooled.mean, pooled.std) for pooled in found), strict=True)
    axes.errorbar(places, means, spread, fmt="D", ms=5, color="#d94801", capsize=3, label="own rate, all seeds")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--over", help="the setting whose values are variants")
    arguments = parser.parse_args()
    results = variants_apart(load_results(arguments.comparison), arguments.over)
    comparison, tuned = Comparison(results), only_tuned(results)
    print("\n".join(one_rate_table(comparison)), end="\n\n")
    print("\n".join(lines(tuned, [])))
    draw(comparison, Comparison(tuned), arguments.comparison / "ablation.png", "o-" if arguments.over else "o")


if __name__ == "__main__":
    main()

"""Print every method of a comparison by its first seed alone, each beside the reference, at the learning both reached.

Usage: python experiments/evidence/one_seed.py COMPARISON [COMPARISON ...]

Of each method, with each of its other settings, the run of the first seed with the lowest held-out loss takes part,
which is the rule of tuning. Changes from the base are read where this run and the reference's first reached the
held-out loss that both reach; positive is worse, and the reference's own change there follows in brackets. An asterisk:
one of the two was past that loss at its first measurement, and stands as it was there. One seed cannot tell small
differences: the spread over seeds is in the tables of table.py.
"""

import argparse
from pathlib import Path

from table import is_divergence

from mofo.report.comparison import Comparison
from mofo.report.formatting import markdown_table, setting_value, signed
from mofo.report.fronts import at_loss
from mofo.results import load_results

HEADS = ["method", "learning rate", "held-out loss at the end", "compared at"]


def best_of_first_seed(comparison):
    """The run of each method and other settings, of the first seed, that ended with the lowest held-out loss."""
    first = min(run.seed for run in comparison.runs)
    best = {}
    for run in comparison.runs:
        loss, others = comparison.loss(run.points[-1]), {k: v for k, v in run.settings.items() if k != "learning_rate"}
        key = (run.method, *others.items())
        if run.seed == first and loss is not None and (key not in best or loss < comparison.loss(best[key].points[-1])):
            best[key] = run
    return list(best.values())


def rows(results):
    """One row for each method, in the order of its divergence beside the reference's, and those that never learned."""
    comparison = Comparison(results)
    runs = best_of_first_seed(comparison)
    ours = next(run for run in runs if run.method == comparison.reference)
    metrics = comparison.probe_headlines
    judge = metrics.index([metric for metric in metrics if is_divergence(metric)][-1])
    lowest = {run.name: min(loss for loss, _ in comparison.trajectory(run, comparison.learning)) for run in runs}
    found, never = [], []
    for run in runs:
        target = max(lowest[run.name], lowest[ours.name])
        if target >= comparison.base_loss:
            never.append(comparison.label(run.method))
            continue
        own, reference = (
            [at_loss(comparison.trajectory(one, metric), target) for metric in metrics] for one in (run, ours)
        )
        early = any(comparison.loss(one.points[0]) < target for one in (run, ours))
        cells = [
            name_of(comparison, run),
            setting_value(run.settings["learning_rate"]),
            comparison.loss_text(comparison.loss(run.points[-1])),
            comparison.loss_text(target) + ("*" if early else ""),
            *(f"{change(a)} ({change(b)})" for a, b in zip(own, reference, strict=True)),
        ]
        found.append((own[judge] / reference[judge], cells))
    return [HEADS + [metric.label for metric in metrics], *(cells for _, cells in sorted(found))], never


def change(amount):
    """A change without the sign that makes it worse."""
    return signed(amount).removeprefix("+")


def name_of(comparison, run):
    """A method's name, with the settings by which it differs from other runs of it."""
    others = [other.settings for other in comparison.runs if other.method == run.method]
    several = [k for k in run.settings if k != "learning_rate" and len({other.get(k) for other in others}) > 1]
    own = [f"{k} {setting_value(run.settings[k])}" for k in several]
    return ", ".join([comparison.label(run.method), *own])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparisons", nargs="+", type=Path)
    for folder in parser.parse_args().comparisons:
        (heads, *lines), never = rows(load_results(folder))
        print(f"### {folder.parent.name}\n\n{markdown_table([heads, ['---'] * len(heads), *lines])}")
        if never:
            print(f"\nNever below the base's held-out loss: {', '.join(dict.fromkeys(never))}.")


if __name__ == "__main__":
    main()

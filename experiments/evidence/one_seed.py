"""Print every method of a comparison by its first seed alone, each beside the reference, at the learning both reached.

Usage: python experiments/evidence/one_seed.py COMPARISON [COMPARISON ...]

Of each method the run of the first seed with the lowest held-out loss takes part, which is the rule of tuning. Changes
from the base are read where the runs of a method and of the reference first reached the held-out loss that both reach;
positive is worse, and the reference's own change there follows in brackets. One seed cannot tell small differences: the
spread over seeds is in the tables of table.py.
"""

import argparse
from pathlib import Path

from table import is_divergence

from mofo.report.comparison import Comparison
from mofo.report.formatting import markdown_table, setting_value, signed
from mofo.report.fronts import at_loss, common_loss
from mofo.results import load_results

HEADS = ["method", "learning rate", "held-out loss at the end", "compared at"]


def best_of_first_seed(results):
    """Results with one run a method: of its first seed, the one that ended with the lowest held-out loss."""
    first = min(run.seed for run in results.runs)

    def end(run):
        loss = results.learning.of(run.points[-1])
        return float("inf") if loss is None else loss

    best = {}
    for run in results.runs:
        if run.seed == first and (run.method not in best or end(run) < end(best[run.method])):
            best[run.method] = run
    return results.model_copy(update={"runs": list(best.values())})


def rows(results):
    """One row for each method, in the order of its divergence beside the reference's."""
    comparison = Comparison(best_of_first_seed(results))
    runs = {run.method: run for run in comparison.runs}
    metrics = comparison.probe_headlines
    judge = [metric for metric in metrics if is_divergence(metric)][-1]
    found = []
    for method, run in runs.items():
        target = common_loss(comparison, [method, comparison.reference])
        both = [
            [at_loss(comparison.trajectory(one, metric), target) for metric in metrics]
            for one in (run, runs[comparison.reference])
        ]
        amounts = [f"{signed(own)} ({signed(reference)})" for own, reference in zip(*both, strict=True)]
        own, reference = (values[metrics.index(judge)] for values in both)
        cells = [
            comparison.label(method),
            setting_value(run.settings["learning_rate"]),
            comparison.loss_text(comparison.loss(run.points[-1])),
            comparison.loss_text(target),
            *amounts,
        ]
        found.append((own / reference, cells))
    return [HEADS + [metric.label for metric in metrics], *(cells for _, cells in sorted(found))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparisons", nargs="+", type=Path)
    for folder in parser.parse_args().comparisons:
        heads, *lines = rows(load_results(folder))
        print(f"### {folder.parent.name}\n\n{markdown_table([heads, ['---'] * len(heads), *lines])}")


if __name__ == "__main__":
    main()

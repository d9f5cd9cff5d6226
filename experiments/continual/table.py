"""Print what every method knew after all tasks, and what it had lost on the way.

Usage: python experiments/continual/table.py COMPARISON

`score` is the mean of the tasks' own metrics, in percent, and `loss` their held-out loss; each with backward transfer
(BWT), the mean gain of the earlier tasks since they were learned, so that negative is lost. Probes are changes from the
base, positive is worse. Joint training has the end alone; each task alone, what was known when it had been learned.
"""

import argparse
from pathlib import Path
from statistics import fmean

from mofo.report.comparison import Comparison
from mofo.report.formatting import markdown_table, measured, pooled, setting_value
from mofo.report.sequences import matrix_of, quantities, reference_rows
from mofo.report.spread import pool
from mofo.results import load_results


def in_sequence(comparison, configuration):
    """The cells of a configuration: of each quantity what was known at the end and the backward transfer."""
    for quantity in reversed(quantities(comparison)):
        matrices = [matrix_of(comparison, run, quantity) for run in configuration.runs]
        yield pooled(pool([matrix.overall for matrix in matrices]))
        yield pooled(pool([matrix.backward_transfer for matrix in matrices]))
    for metric in comparison.probe_headlines:
        yield measured(comparison.at_end(configuration, metric), metric)


def of_reference(comparison, method, order):
    """The cells of a method that learned all tasks at once, or each alone."""
    for quantity in reversed(quantities(comparison)):
        rows = reference_rows(comparison, quantity, order)[method]
        yield pooled(pool([fmean(row) for row in rows]))
        yield ""
    yield from [""] * len(comparison.probe_headlines)


def table(comparison):
    """The lines of the table."""
    found = quantities(comparison)
    names = [head for quantity in reversed(found) for head in (quantity.label, "BWT")]
    heads = ["", "learning rate", *names, *(metric.label for metric in comparison.probe_headlines)]
    yield heads
    yield ["---"] * len(heads)
    for configuration in comparison.configurations:
        rate = setting_value(configuration.settings["learning_rate"])
        yield [comparison.label(configuration.method), rate, *in_sequence(comparison, configuration)]
    for order in ("joint", "alone"):
        for method in reference_rows(comparison, found[0], order):
            label = comparison.results.methods[method].label
            yield [label, "", *of_reference(comparison, method, order)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparison", type=Path)
    print(markdown_table(list(table(Comparison(load_results(parser.parse_args().comparison))))), end="")


if __name__ == "__main__":
    main()

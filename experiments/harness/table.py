"""Print what each task of a comparison tells: before, change, whether beyond chance, questions lost and won.

Usage: python experiments/harness/table.py COMPARISON

Each number is of the ends of a method's runs. A change is after minus before, mean ± standard deviation over seeds,
in percentage points for accuracies, in nats for log-probabilities of the right answer. In brackets: in how many seeds
it is beyond chance by the rules of docs/measuring.md, each question compared with itself. Lost and won are questions
of all seeds together. Seen from: half of the 95 % interval of one run's change, the median over all runs.
"""

import sys
from pathlib import Path
from statistics import median

from mofo.report.formatting import markdown_table, number, pooled
from mofo.report.spread import pool
from mofo.results import load_results


def rows(results):
    """The heads and a row for each accuracy and log-probability, of the harness's tasks and the workbench's own."""
    heads = ["task", "number", "questions", "before", "seen from"]
    for method in results.methods.values():
        heads += [f"{method.label}: change", "lost, won"]
    yield heads
    yield ["---"] * len(heads)
    for metric in results.metrics:
        ends = {name: found for name in results.methods if (found := ends_of(results, name, metric))}
        pairs = [paired for found in ends.values() for _, paired in found]
        of_questions = metric.headline or metric.name in ("accuracy", "acc", "log_probability")
        if not pairs or metric.kind != "forgotten" or metric.source in ("text", "divergence") or not of_questions:
            continue
        base = results.base.forgotten[metric.source][metric.name]
        seen = metric.scale * median((paired.high - paired.low) / 2 for paired in pairs)
        cells = [metric.source, words(metric.name), f"{pairs[0].units}", number(metric.scale * base), number(seen, 2)]
        for found in ends.values():
            change = pooled(pool([metric.scale * (value - base) for value, _ in found]))
            beyond = sum(paired.is_significant for _, paired in found)
            flips = [sum(getattr(paired, kind) or 0 for _, paired in found) for kind in ("lost", "won")]
            cells += [f"{change} ({beyond} of {len(found)})", "" if flips == [0, 0] else "{}, {}".format(*flips)]
        yield cells


def ends_of(results, method, metric):
    """The value of each seed's end with its comparison question by question."""
    points = [run.points[-1] for run in results.runs if run.method == method]
    return [
        (point.forgotten[metric.source][metric.name], paired)
        for point in points
        if (paired := point.paired.forgotten.get(metric.source, {}).get(metric.name))
    ]


def words(name):
    """A number's name for readers."""
    return {"log_probability": "log-probability"}.get(name, name)


if __name__ == "__main__":
    print(markdown_table(list(rows(load_results(Path(sys.argv[1]))))), end="")

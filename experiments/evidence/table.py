"""Print the table of docs/evidence.md: each method with its own learning rate, at equal learning, and who wins.

Usage: python experiments/evidence/table.py COMPARISON [COMPARISON ...] [--methods adamw,mofo,...] [--beside COMPARISON]

`--beside` adds the methods of other comparisons with the same rows and probes, with the folder's name beside theirs.

Of each method only the configuration that has all seeds takes part: the one that tuning chose. What `blend` makes of
the end of a run stands for itself, each share that is kept as a method; the run is there without it. Columns are
changes from the base when a run first reached the held-out loss that all of them reach; positive is worse. The last
column applies the definition of a win in docs/evidence.md to one domain.
"""

import argparse
from pathlib import Path

from mofo.report.comparison import Comparison
from mofo.report.formatting import measured, setting_value
from mofo.report.fronts import at_loss, common_loss
from mofo.report.spread import distinguishable, pool, pool_known
from mofo.results import load_results

THIRD = 1 / 3
KEEP = "blend.keep"
"""The setting of an end that was moved back: the share of the change that is kept."""


def only_tuned(results):
    """Results with those runs alone whose configuration has all seeds."""
    seeds = {run.seed for run in results.runs}

    def complete(run):
        same = {other.seed for other in results.runs if (other.method, other.settings) == (run.method, run.settings)}
        return same == seeds

    return results.model_copy(update={"runs": [run for run in results.runs if complete(run)]})


def ends_apart(results):
    """Results with each share that `blend` keeps of the end as a method of its own, without the runs as they were."""
    methods, runs = {key: method for key, method in results.methods.items() if "blend" not in method.parts}, []
    for run in results.runs:
        if run.method in methods:
            runs.append(run)
        elif KEEP in run.settings:
            method, keep = results.methods[run.method], run.settings[KEEP]
            name = f"{run.method}-{keep:g}"
            methods[name] = method.model_copy(update={"label": f"{method.label} to {keep:g}"})
            runs.append(run.model_copy(update={"method": name}))
    return results.model_copy(update={"methods": methods, "runs": runs})


def joined(results, other, name):
    """Results with the runs of others, whose methods are told apart by a name."""
    if results.base.learned != other.base.learned or results.base.forgotten != other.base.forgotten:
        raise SystemExit("the bases of the two comparisons measure differently: they have other rows or probes")
    methods = {
        f"{key}-{name}": method.model_copy(update={"label": f"{method.label}, {name}"})
        for key, method in other.methods.items()
    }
    runs = [run.model_copy(update={"method": f"{run.method}-{name}"}) for run in other.runs]
    return results.model_copy(update={"methods": results.methods | methods, "runs": [*results.runs, *runs]})


def amounts(comparison, configuration, target, metric):
    """A metric at a held-out loss over the seeds of a configuration."""
    reached = [at_loss(comparison.trajectory(run, metric), target) for run in configuration.runs]
    return pool_known(reached, comparison.error(configuration, metric))


def is_divergence(metric):
    """Whether a metric is a divergence from the base, on whatever text."""
    return metric.name == "kl"


def outcome(ours, theirs, metrics):
    """Apply the definition of a win: `win`, `loss`, or `tie` with what stands against either."""
    first = [metric for metric in metrics if is_divergence(metric)][-1]  # on text of another kind, if there are two
    a, b = ours[first], theirs[first]
    if a.mean > b.mean:
        return "loss" if distinguishable(a, b) else "tie"
    worse = [
        metric.label
        for metric in metrics
        if not is_divergence(metric)
        and ours[metric].mean > max(0, theirs[metric].mean)
        and distinguishable(ours[metric], theirs[metric])
    ]
    if a.mean <= (1 - THIRD) * b.mean and distinguishable(a, b) and not worse:
        return "**win**"
    return "tie" + (f" ({', '.join(worse)} worse)" if worse else "")


def lines(results, methods):
    """The rows of the table of one comparison."""
    comparison = Comparison(results)
    chosen = [method for method in comparison.methods if not methods or method in methods]
    target = common_loss(comparison, chosen)
    metrics = comparison.probe_headlines
    at = {
        method: {metric: amounts(comparison, comparison.of_method(method)[0], target, metric) for metric in metrics}
        for method in chosen
    }
    yield f"At held-out loss {comparison.loss_text(target)} (base {comparison.loss_text(comparison.base_loss)}):"
    yield ""
    heads = ["method", "learning rate", "held-out loss at the end", *(metric.label for metric in metrics), ""]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    judge = [metric for metric in metrics if is_divergence(metric)][-1]
    order = sorted(chosen, key=lambda method: at[method][judge].mean)
    for method in order:
        (configuration,) = comparison.of_method(method)
        end = pool([comparison.loss(run.points[-1]) for run in configuration.runs])
        said = "" if method == comparison.reference else outcome(at[method], at[comparison.reference], metrics)
        cells = [
            comparison.label(method),
            setting_value(configuration.settings["learning_rate"]),
            measured(end, comparison.learning),
            *(measured(at[method][metric], metric) for metric in metrics),
            said,
        ]
        yield f"| {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparisons", nargs="+", type=Path)
    parser.add_argument("--methods", default="", help="only these, separated by commas")
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="comparisons whose methods take part")
    arguments = parser.parse_args()
    methods = [method for method in arguments.methods.split(",") if method]
    for folder in arguments.comparisons:
        results = only_tuned(ends_apart(load_results(folder)))
        for other in arguments.beside:
            results = joined(results, only_tuned(ends_apart(load_results(other))), other.parent.name)
        print("\n".join([f"### {folder.parent.name}", "", *lines(results, methods)]), end="\n\n")


if __name__ == "__main__":
    main()

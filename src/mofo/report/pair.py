"""What was measured of two models, for the terminal and for other programs."""

from __future__ import annotations

import csv
import io

from rich.table import Table

from mofo.pair import PairResults
from mofo.report.formatting import markdown_table
from mofo.results import MARGIN, Metric, Outcome, Paired

OUTCOMES: dict[Outcome, str] = {
    "worse": "forgot",
    "better": "gained on",
    "unchanged": "shows no change beyond noise on",
}
"""What is said of the tuned model where a metric has an outcome; of those that are unclear there is a sentence."""


def pair_table(results: PairResults) -> Table:
    """Return the results of two models as a table for the terminal; positive changes are worse, as in a comparison."""
    caption = ["change: positive is worse; ± is the standard error"]
    caption += [f"{count} {reason}" for reason, count in results.rows.items()]
    heads = ["", "base", "tuned", "change"]
    base, tuned, moved = results.base.point, results.tuned.point, results.distance
    counted = any(questions_of(metric, results) for metric in results.metrics)
    if counted:
        heads += ["95 % interval", "lost", "won"]
        caption.append("lost and won: questions that were right before alone, and after alone")
    table = Table(*heads, caption="\n".join(caption))
    for metric in results.metrics:
        label = f"{metric.label}, {metric.unit}" if metric.scale != 1 else metric.label
        interval = metric.worse_interval(tuned)
        questions = questions_of(metric, results)
        more = [
            "" if interval is None else " to ".join(format(end * metric.scale, "+.4g") for end in interval),
            "" if questions is None else str(questions.lost),
            "" if questions is None else str(questions.won),
        ]
        table.add_row(
            label,
            _number(metric.of(base), metric.error(base), metric),
            _number(metric.of(tuned), metric.error(tuned), metric),
            _number(metric.change(base, tuned), metric.change_error(tuned), metric, sign="+"),
            *(more if counted else []),
        )
    table.add_section()
    table.add_row("L2 distance", "", _text(moved.l2, ".4g"), "")
    table.add_row("L2 distance / L2 of the base", "", _text(moved.relative, ".2e"), "")
    table.add_row("entries moved", "", _text(moved.moved, ".2%"), "")
    return table


def pair_verdict(results: PairResults) -> str:
    """Return which probes the tuned model forgot or gained on, which did not change, and which cannot tell."""
    base, tuned = results.base.point, results.tuned.point
    outcomes = {metric: metric.outcome(base, tuned) for metric in results.metrics}
    broken = [metric.label for metric, outcome in outcomes.items() if outcome is None]
    found = {metric: outcome for metric, outcome in outcomes.items() if metric.kind == "forgotten"}
    groups = {
        words: [metric.label for metric, outcome in found.items() if outcome == known]
        for known, words in OUTCOMES.items()
    }
    clauses = [f"{words} {', '.join(labels)}" for words, labels in groups.items() if labels]
    clauses += [f"has no finite {', '.join(broken)}: it diverged"] if broken else []
    unclear = [metric.label for metric, outcome in found.items() if outcome == "unclear"]
    sentences = [f"The tuned model {'; '.join(clauses)}."] if clauses else []
    if unclear:
        sentences.append(
            f"Insufficient evidence on {', '.join(unclear)}: nothing beyond chance, but a loss of more than "
            f"{MARGIN:.0%} of the questions is not ruled out."
        )
    return " ".join(sentences) or "No probe was measured."


def pair_legend(results: PairResults) -> list[str]:
    """Return a line for each metric that says what it is."""
    return [f"{metric.label}: {metric.description}" for metric in results.metrics if metric.description]


_HEADS = (
    *("metric", "probe", "unit", "base", "base error", "tuned", "tuned error", "change", "change error", "low", "high"),
    *("units", "lost", "won", "p", "outcome"),
)


def pair_csv(results: PairResults) -> str:
    """Return a row for each metric as comma-separated values with every digit; what was not measured is empty.

    Numbers are in the unit that is named. `change`, `low` and `high`, the ends of its 95 % interval, are positive where
    the tuned model is worse.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_HEADS)
    base, tuned = results.base.point, results.tuned.point
    for metric in results.metrics:
        interval, paired = metric.worse_interval(tuned) or (None, None), metric.paired(tuned)
        numbers = [
            *(metric.of(base), metric.error(base), metric.of(tuned), metric.error(tuned)),
            *(metric.change(base, tuned), metric.change_error(tuned), *interval),
        ]
        scaled = [None if number is None else number * metric.scale for number in numbers]
        counts = [paired.units, paired.lost, paired.won, paired.p] if paired else [None] * 4
        outcome = "diverged" if metric.change(base, tuned) is None else metric.outcome(base, tuned)
        rows.writerow([metric.label, metric.source, metric.unit, *scaled, *counts, outcome])
    return text.getvalue()


def pair_markdown(results: PairResults) -> str:
    """Return a row for each metric as a Markdown table, and the verdict under it."""
    base, tuned = results.base.point, results.tuned.point
    lines = [["metric", "base", "tuned", "change", "95 % interval", "lost", "won"], ["---", *["---:"] * 6]]
    for metric in results.metrics:
        interval, questions = metric.worse_interval(tuned), questions_of(metric, results)
        lines.append(
            [
                f"{metric.label}, {metric.unit}" if metric.unit else metric.label,
                _number(metric.of(base), metric.error(base), metric),
                _number(metric.of(tuned), metric.error(tuned), metric),
                _number(metric.change(base, tuned), metric.change_error(tuned), metric, sign="+"),
                "" if interval is None else " to ".join(format(end * metric.scale, "+.4g") for end in interval),
                "" if questions is None else str(questions.lost),
                "" if questions is None else str(questions.won),
            ]
        )
    table = markdown_table(lines)
    return f"{table}\nChange: positive is worse. {pair_verdict(results)}\n"


def questions_of(metric: Metric, results: PairResults) -> Paired | None:
    """Return the questions of a metric that were lost and won; None where they are not right or wrong."""
    paired = metric.paired(results.tuned.point)
    return paired if paired is not None and paired.lost is not None else None


def _number(value: float | None, error: float | None, metric: Metric, sign: str = "") -> str:
    """Return a number with its standard error, in the unit in which it is shown."""
    if value is None:
        return "–"
    text = format(value * metric.scale, f"{sign}.4f")
    return f"{text} ±{format(error * metric.scale, '.4f')}" if error else text


def _text(value: float | None, form: str) -> str:
    """Return a number as text; a dash where it is not finite, as of a model that diverged."""
    return "–" if value is None else format(value, form)

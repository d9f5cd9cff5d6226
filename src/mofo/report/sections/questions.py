"""Questions lost and won: what became of the very questions that the base was asked."""

from __future__ import annotations

from collections.abc import Sequence

from mofo.report.comparison import Comparison
from mofo.report.formatting import measured, number, plural
from mofo.report.section import Cell, Details, Group, Row, Section, Table
from mofo.report.spread import Pooled
from mofo.results import MARGIN, Metric, Outcome, Run

_MOST_QUOTED = 15

_VERDICTS: dict[Outcome, str] = {
    "worse": "forgot",
    "better": "gained",
    "unchanged": "no change beyond noise",
    "unclear": "insufficient evidence",
}


def section(comparison: Comparison) -> Section | None:
    """Return a row for each method, of its best run, under each metric whose questions are right or wrong."""
    runs = [run for method in comparison.methods if (run := comparison.best_run(method)) is not None]
    groups, details = [], []
    for metric in comparison.forgotten + comparison.learned:
        rows = [_row(comparison, metric, run) for run in runs if _is_counted(metric, run)]
        if rows:
            groups.append(Group(rows, title=f"{metric.label}, base {comparison.base_text(metric)}"))
            details += [found for run in runs if (found := _quoted(comparison, metric, run)) is not None]
    if not groups:
        return None
    heads = ["tuned", "worse by", "95 % interval", "lost", "won", "questions", "verdict"]
    return Section(
        "Questions lost and won",
        table=Table("method", [Cell(head) for head in heads], groups),
        caption=f"Of each method its run with the {comparison.lowest} {comparison.learning.label}, at its end, in "
        "percent of the questions. Lost: right before and wrong after; won: the other way round. Base and tuned model "
        "are compared question by question: a change counts if its 95 % interval (Newcombe's for paired shares) is on "
        "one side of 0 and McNemar's exact test finds the losses and gains uneven (p below 0.05). Insufficient "
        f"evidence: no change is shown, but a loss of more than {MARGIN:.0%} of the questions is not ruled out.",
        details=details,
    )


def _is_counted(metric: Metric, run: Run) -> bool:
    paired = metric.paired(run.points[-1])
    return paired is not None and paired.lost is not None


def _row(comparison: Comparison, metric: Metric, run: Run) -> Row:
    point = run.points[-1]
    paired, interval, after = metric.paired(point), metric.worse_interval(point), metric.of(point)
    change, outcome = metric.change(comparison.results.base, point), metric.outcome(comparison.results.base, point)
    assert paired is not None
    cells = [
        measured(None if after is None else Pooled(after * metric.scale, None, 1), metric),
        number(None if change is None else change * metric.scale),
        "" if interval is None else " to ".join(number(end * metric.scale) for end in interval),
        str(paired.lost),
        str(paired.won),
        str(paired.units),
        _VERDICTS[outcome] if outcome else "",
    ]
    head = Cell(comparison.describe_run(run))
    return Row(head, comparison.styles[run.method], [Cell(text) for text in cells])


def _quoted(comparison: Comparison, metric: Metric, run: Run) -> Details | None:
    """Return the questions that a run lost and won, as far as their texts are in the file; None without any."""
    texts = comparison.results.questions.get(metric.source if metric.kind == "forgotten" else metric.kind, {}).get(
        metric.name, {}
    )
    paired = metric.paired(run.points[-1])
    if paired is None or not metric.headline:
        return None
    parts = [_listed("lost", paired.lost_questions, texts), _listed("won", paired.won_questions, texts)]
    text = "\n\n".join(filter(None, parts))
    return Details(f"{comparison.label(run.method)}: questions of {metric.label}", text=text) if text else None


def _listed(what: str, numbers: Sequence[int], texts: dict[int, str]) -> str:
    known = [place for place in numbers if place in texts]
    if not known:
        return ""
    more = f"\n… and {len(numbers) - _MOST_QUOTED} more" if len(numbers) > _MOST_QUOTED else ""
    lines = [f"{place + 1}. {texts[place]}" for place in known[:_MOST_QUOTED]]
    return "\n".join([f"{plural(len(numbers), 'question')} {what}:", *lines]) + more

"""The page of two models: what was compared, each number before and after, and the questions behind the scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from mofo.pair import GateResults, ModelResults, PairResults, Question
from mofo.report.figures import INK, Panel
from mofo.report.formatting import NOTHING, number, plural, signed, with_unit
from mofo.report.gate import bounds_section
from mofo.report.pair import pair_verdict, questions_of
from mofo.report.render import render
from mofo.report.section import Cell, Conversation, Details, Group, Plot, Row, Section, Table, Written
from mofo.report.styles import BASE, Style, make_styles
from mofo.results import MARGIN, Metric, Outcome

_VERDICTS: dict[Outcome | None, tuple[str, Style]] = {
    "worse": ("worse", Style("#D55E00", "v", "-", "▼")),
    "better": ("better", Style("#009E73", "^", "-", "▲")),
    "unchanged": ("no change beyond noise", Style("#888888", "o", "-", "●")),
    "unclear": ("insufficient evidence", Style("#888888", "D", "-", "◆")),
    None: ("not finite: diverged", Style("#D55E00", "X", "-", "✖")),
}
"""What is said of a number, and how it looks."""

_MOST_QUOTED = 10
"""Questions lost, and as many won, that are quoted of each number."""

_TUNED = make_styles([], "tuned")["tuned"]


def pair_page(results: PairResults, gate: GateResults | None = None) -> str:
    """Return the page of what was measured, one HTML file that needs no other.

    Args:
        results: What was measured.
        gate: What the tuned model was held to, if it was.
    """
    made = [
        bounds_section(gate) if gate else None,
        _compared(results),
        _headlines(results),
        _tasks(results),
        *_questions(results),
        _meaning(results),
        _distance(results),
        _made(results),
    ]
    return render(
        "pair.html.jinja",
        title=f"{_name(results.tuned)}, measured against {_name(results.base)}",
        sentence=gate.sentence if gate else None,
        outcome=pair_verdict(results),
        notes=results.notes,
        sections=[section for section in made if section is not None],
    )


def _name(model: ModelResults) -> str:
    return Path(model.model).name or "a model"


def _compared(results: PairResults) -> Section:
    """Return which models were compared, on what."""
    home = str(Path.home())  # pages are passed on
    terms = {
        role: model.model.replace(home, "~") + (f" (SHA-256 {model.sha256[:12]}…)" if model.sha256 else "")
        for role, model in (("base", results.base), ("tuned", results.tuned))
    }
    if results.data is not None:
        unused = "".join(f"; {count} {reason}" for reason, count in results.rows.items())
        terms["held-out rows"] = f"{results.data.replace(home, '~')}{unused}"
    return Section("What was compared", terms=terms)


def _headlines(results: PairResults) -> Section | None:
    """Return a row for each number that stands for the task or a probe, and a figure of their changes."""
    metrics = [metric for metric in results.metrics if metric.headline]
    if not metrics:
        return None
    groups = [
        Group([_row(metric, results) for metric in metrics if metric.kind == kind], kind)
        for kind in ("learned", "forgotten")
    ]
    heads = [Cell("base"), Cell("tuned"), Cell("change", "positive is worse"), Cell("95 % interval"), Cell("verdict")]
    return Section(
        "Before and after",
        plot=Plot("changes", list(_panels(metrics, results))),
        table=Table("number", heads, [group for group in groups if group.rows]),
        caption="Lines are 95 % intervals of the change, question by question; ± is the standard error.",
    )


def _row(metric: Metric, results: PairResults) -> Row:
    """Return a number before and after."""
    base, tuned = results.base.point, results.tuned.point
    verdict, style = _VERDICTS[metric.outcome(base, tuned)]
    change, interval = metric.change(base, tuned), metric.worse_interval(tuned)
    cells = [
        _value(metric.of(base), metric.error(base), metric),
        _value(metric.of(tuned), metric.error(tuned), metric),
        NOTHING if change is None else signed(change * metric.scale),
        NOTHING if interval is None else " to ".join(signed(end * metric.scale) for end in interval),
        verdict,
    ]
    return Row(Cell(metric.label, metric.unit), style, [Cell(text) for text in cells])


def _value(value: float | None, error: float | None, metric: Metric) -> str:
    if value is None:
        return NOTHING
    text = number(value * metric.scale, 4)
    return f"{text} ± {number(error * metric.scale, 2)}" if error else text


def _panels(metrics: Sequence[Metric], results: PairResults) -> Iterator[Panel]:
    """Yield a panel of changes for each unit."""
    for unit in dict.fromkeys(metric.unit for metric in metrics):
        chosen = [metric for metric in metrics if metric.unit == unit]
        yield Panel(with_unit("Change", unit), _draw(chosen, unit, results), 1.2 + 0.35 * len(chosen))


def _draw(metrics: Sequence[Metric], unit: str, results: PairResults) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        base, tuned = results.base.point, results.tuned.point
        axes.axvline(0, color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
        for place, metric in enumerate(metrics):
            change, interval = metric.change(base, tuned), metric.worse_interval(tuned)
            style = _VERDICTS[metric.outcome(base, tuned)][1]
            if interval is not None:
                axes.plot([end * metric.scale for end in interval], [place, place], color=style.colour, lw=2)
            if change is not None:
                axes.plot(change * metric.scale, place, marker=style.marker, color=style.colour, ms=7, zorder=5)
        axes.set_yticks(range(len(metrics)), [metric.label for metric in metrics])
        axes.set_ylim(len(metrics) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.12)
        axes.set_xlabel(f"← better     {with_unit('change from the base', unit)}")

    return draw


def _tasks(results: PairResults) -> Section | None:
    """Return all numbers of the probes that have several or ask questions; None if there are none."""
    groups = []
    for source in dict.fromkeys(metric.source for metric in results.metrics):
        metrics = [metric for metric in results.metrics if metric.source == source]
        if len(metrics) > 1 or any(questions_of(metric, results) for metric in metrics):
            groups.append(Group([_task_row(metric, results) for metric in metrics], source))
    if not groups:
        return None
    heads = ["base", "tuned", "change", "95 % interval", "lost", "won", "questions", "p", "verdict"]
    return Section("Task by task", table=Table("number", [Cell(head) for head in heads], groups))


def _task_row(metric: Metric, results: PairResults) -> Row:
    """Return a number with the questions behind it."""
    row, paired = _row(metric, results), metric.paired(results.tuned.point)
    counts = [NOTHING] * 4
    if paired is not None and paired.lost is not None:
        p = NOTHING if paired.p is None else "below 0.001" if paired.p < 0.001 else number(paired.p, 2)
        counts = [str(paired.lost), str(paired.won), str(paired.units), p]
    elif paired is not None:
        counts[2] = str(paired.units)
    *cells, verdict = row.cells
    return Row(row.head, row.style, [*cells, *map(Cell, counts), verdict])


def _questions(results: PairResults) -> Iterator[Section]:
    """Yield for each number the questions that were lost and won, with what both models answered.

    A question is quoted once of a probe, under the first number that it changed.
    """
    quoted: set[tuple[str, str]] = set()
    for metric in results.metrics:
        paired = metric.paired(results.tuned.point)
        known = results.questions.get(metric.source, {}).get(metric.name, {}) if metric.kind == "forgotten" else {}
        new = {place: q for place, q in known.items() if (metric.source, q.question) not in quoted}
        quoted |= {(metric.source, q.question) for q in new.values()}
        if paired is None or not new:
            continue
        lost, won = (
            {place: new[place] for place in places if place in new}
            for places in (paired.lost_questions, paired.won_questions)
        )
        counted = f"{plural(len(paired.lost_questions), 'question')} lost and {len(paired.won_questions)} won"
        yield Section(
            f"Answers behind {metric.label}",
            conversations=[*_conversations("lost", lost), *_conversations("won", won)],
            caption=f"{counted}; of each, at most {_MOST_QUOTED} that do not stand above.",
        )


def _conversations(what: str, questions: Mapping[int, Question]) -> Iterator[Conversation]:
    for asked in list(questions.values())[:_MOST_QUOTED]:
        answers = [Written("base", asked.base, BASE), Written("tuned", asked.tuned, _TUNED)]
        yield Conversation(f"{what}: {asked.question}", asked.question, asked.expected, answers)


def _meaning(results: PairResults) -> Section:
    """Return a line for each number and each word that is used of them."""
    lines = [f"{metric.label}: {metric.description}." for metric in results.metrics if metric.description]
    words = [
        "Change: how much worse the tuned model is than its base, in the unit of the number; negative is better.",
        "95 % interval: a range that holds the change in 95 of 100 draws of other questions, rows or texts of the same "
        "kind; each is compared with itself.",
        "Worse, better: the change is beyond chance. Of questions that are right or wrong the interval must lie on one "
        "side of 0 and McNemar's exact test give p below 0.05; of other numbers the change must exceed two standard "
        "errors.",
        f"Insufficient evidence: no change is shown, but a loss of more than {MARGIN:.0%} of the questions is not "
        "ruled out: ask more questions.",
        "Lost: right before and wrong after; won: the other way round.",
    ]
    return Section("What the numbers mean", items=[*lines, *words])


def _distance(results: PairResults) -> Section:
    """Return how far the weights have moved."""
    moved = results.distance
    share = NOTHING if moved.moved is None else f"{number(moved.moved * 100)} %"
    terms = {
        "L2 distance": number(moved.l2, 4),
        "of the base's": NOTHING if moved.relative is None else f"{moved.relative:.2e} of the base's L2 norm",
        "entries moved": share,
    }
    return Section("How far the weights moved", terms=terms)


def _made(results: PairResults) -> Section:
    """Return what else tells this measurement from another, folded in."""
    models = {"base": results.base, "tuned": results.tuned}
    terms = {f"{role}, SHA-256": model.sha256 for role, model in models.items() if model.sha256}
    terms |= {"computed in": results.precision} if results.precision else {}
    return Section("How it was measured", details=[Details("Weights and versions", terms | results.versions)])

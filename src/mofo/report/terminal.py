"""Tables: what was measured as rows of text, for the terminal (rich) and for the page."""

from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from mofo.report.comparison import (
    DISTANCE,
    Measure,
    Results,
    Run,
    Setting,
    finite,
    headlines,
    last_step,
    measures,
    methods,
    settings,
)
from mofo.report.conclusion import pair_loss
from mofo.report.formatting import (
    NOTHING,
    gigabytes,
    listed,
    measure_name,
    measure_unit,
    method_name,
    number,
    option_name,
    option_value,
    options_text,
    percent,
    pooled,
)
from mofo.report.fronts import Best, Pooled, default_targets, equal_learning, forgotten, pool, told_apart

_SYLLABLES = {
    "fraction": "frac-\ntion",
    "held-out loss": "held-\nout",
    "divergence": "diver-\ngence",
    "accuracy %": "acc.\n%",
}


@dataclass(frozen=True)
class Row:
    """A setting with its cells."""

    setting: Setting
    seeds: int
    cells: list[str]


@dataclass(frozen=True)
class Cell:
    """An amount at equal learning; `best` if it is below all others of its column by more than the spread."""

    text: str
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class EqualRow:
    """A method at equal learning, with how many of its settings got there."""

    method: str
    note: str
    cells: list[Cell]


def summary_table(results: Results) -> Table:
    """The end of training as a short table for the terminal: a row per setting, seeds as mean ± standard deviation.

    Made for 80 columns: a narrow terminal breaks heads, names and spreads, but never a number.
    """
    chosen = headlines(results)
    rows = end_rows(results, chosen)
    counts = sorted({row.seeds for row in rows})
    options = list(dict.fromkeys(name for row in rows for name, _ in row.setting.options))
    options.sort(key=lambda name: name != "learning_rate")
    heads = ["method", *map(option_name, options), *(["n"] if len(counts) > 1 else []), "held-out loss", "accuracy %"]
    heads += [*map(measure_name, chosen), "L2", "moved %", "s/step"]
    lines = []
    for row in rows:
        values = dict(row.setting.options)
        cells = [cell.removesuffix(" %") for cell in row.cells]
        means = [*cells[-2:], pooled(_a_step(settings(results)[row.setting]))]
        lines.append(
            [
                method_name(row.setting.method),
                *(option_value(values[name]) if name in values else "" for name in options),
                *([str(row.seeds)] if len(counts) > 1 else []),
                *cells[:-2],
                *(cell.split(" ± ")[0] for cell in means),
            ]
        )
    seeds = f"{counts[0]} seed{'s' if counts[0] > 1 else ''}. " if len(counts) == 1 else "n: seeds. "
    table = Table(
        title=f"After step {last_step(results)}",
        caption=f"{seeds}{listed([measure_name(m) for m in chosen]) or 'No probe'}: change from the base, positive is "
        "worse. L2, moved: distance from the base. s/step: in the optimizer.",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        collapse_padding=True,
        pad_edge=False,
    )
    for i, head in enumerate(heads):
        longest = max((len(word) for line in lines for word in line[i].split()), default=0)
        table.add_column(
            Text(_SYLLABLES.get(head) or head.replace("log-probability", "log-p").replace(" ", "\n")),
            justify="right" if i else "left",
            vertical="bottom",
            overflow="fold",
            min_width=longest if i else None,
        )
    for i, line in enumerate(lines):
        ends = i + 1 < len(rows) and rows[i + 1].setting.method != rows[i].setting.method
        table.add_row(*map(Text, line), end_section=ends)
    return table


def end_columns(chosen: list[Measure]) -> list[str]:
    """Heads of the columns of `end_rows`."""
    return ["held-out loss", "accuracy", *map(measure_name, chosen), "L2", "moved"]


def end_rows(results: Results, chosen: list[Measure]) -> list[Row]:
    """What each setting had learned and forgotten at the last step: the comparison at equal steps.

    Runs that have not come so far yet are left out.
    """
    rows = []
    for setting, runs in settings(results).items():
        ends = [run["points"][-1] for run in runs if run["points"][-1]["step"] == last_step(results)]
        if not ends:
            continue
        cells = [
            pooled(_pool([end["learned"]["loss"] for end in ends]), digits=4),
            percent_pooled(_pool([end["learned"].get("accuracy") for end in ends])),
            *(pooled(_pool([forgotten(results["base"], end, *m) for end in ends]), m) for m in chosen),
            pooled(_pool([(end.get("distance") or {}).get("l2") for end in ends])),
            percent_pooled(_pool([(end.get("distance") or {}).get("moved") for end in ends])),
        ]
        rows.append(Row(setting, len(ends), cells))
    return rows


def cost_rows(results: Results) -> list[Row]:
    """What each setting cost: optimizer time (a step, share of training), training, measuring, total, peak memory."""
    rows = []
    for setting, runs in settings(results).items():
        times = [run["seconds"] for run in runs if run.get("seconds")]
        shares = _pool([_ratio(time.get("optimizer"), time.get("training")) for time in times])
        totals = [_pool([time.get(kind) for time in times]) for kind in ("training", "measuring", "total")]
        cells = [
            _with_unit(_a_step(runs), "s/step"),
            percent_pooled(shares),
            *(_with_unit(total, "s") for total in totals),
            gigabytes(max((run.get("peak_memory_bytes") or 0 for run in runs), default=0) or None),
        ]
        rows.append(Row(setting, len(times), cells))
    return rows


def equal_learning_table(results: Results, chosen: list[Measure]) -> list[tuple[float, list[EqualRow]]]:
    """Per held-out loss (lowest first) a row per method with the measures `chosen`."""
    targets = default_targets(results)
    pair = pair_loss(results)
    if pair is not None and pair not in targets:
        targets = [pair, *targets]
    table = []
    for target in targets:
        best = equal_learning(results, target, chosen).best
        rows = []
        for method in methods(results):
            reached = [best[method, m] for m in chosen if (method, m) in best]
            rows.append(EqualRow(method, _reached(reached), [_cell(method, m, best, methods(results)) for m in chosen]))
        table.append((target, rows))
    return table


def compared(results: Results) -> list[Measure]:
    """All measures, and the distance where it was measured along the way."""
    with_distance = any((point.get("distance") or {}).get("l2") for run in results["runs"] for point in run["points"])
    return [*measures(results), *([DISTANCE] if with_distance else [])]


def heads(chosen: list[Measure]) -> list[tuple[str, str]]:
    """Name and unit of each measure."""
    return [(measure_name(measure), measure_unit(measure)) for measure in chosen]


def percent_pooled(share: Pooled | None) -> str:
    """A pooled share in percent."""
    if share is None:
        return pooled(None)
    scaled = Pooled(share.mean * 100, None if share.std is None else share.std * 100, share.seeds)
    return percent(share.mean) if scaled.std is None else f"{pooled(scaled)} %"


def _reached(entries: list[Best]) -> str:
    """How many settings of a method got to a loss, and how many of them were left out because they passed it early."""
    if not entries:
        return "not reached"
    most = max(entries, key=lambda entry: entry.reached)
    left_out = f", {most.early} left out" if most.early and not most.from_base else ""
    return f"{most.reached} of {most.tried} settings{left_out}"


def _cell(method: str, measure: Measure, best: dict[tuple[str, Measure], Best], names: list[str]) -> Cell:
    entry = best.get((method, measure))
    if entry is None:
        return Cell(NOTHING)
    others = [best[name, measure].amount for name in names if name != method and (name, measure) in best]
    ahead = bool(others) and all(entry.amount.mean < other.mean and told_apart(entry.amount, other) for other in others)
    seeds = f" · {entry.amount.seeds}\u00a0seeds" if entry.amount.seeds > 1 else ""
    text = pooled(entry.amount, measure) + ("*" if entry.from_base else "")
    return Cell(text, options_text(entry.setting) + seeds, ahead)


def _pool(values: list[float | None]) -> Pooled | None:
    """Pooled over seeds; None unless every seed has the number, so that a run that broke does not vanish in a mean."""
    known = [value for value in values if finite(value) is not None]
    return pool(known) if known and len(known) == len(values) else None


def _a_step(runs: list[Run]) -> Pooled | None:
    """Seconds in the optimizer per training step."""
    timed = [run for run in runs if run.get("seconds")]
    return _pool([_ratio(run["seconds"].get("optimizer"), run["points"][-1]["step"]) for run in timed])


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _with_unit(amount: Pooled | None, unit: str) -> str:
    return number(None) if amount is None else f"{pooled(amount)} {unit}"

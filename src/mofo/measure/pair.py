"""`mofo measure`: what a tuned model has learned, forgotten and moved against its base, whoever tuned it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from mofo.data.conversation import Turns
from mofo.data.rows import load_rows
from mofo.data.tokens import WHOLE, Example, encode_rows, find_row, has_labels
from mofo.data.usage import check_positions, truncated, usage
from mofo.errors import UserError
from mofo.measure.distance import weight_distance
from mofo.measure.kinds import check_probe_specs, make_probes
from mofo.measure.measured import Measured
from mofo.measure.metrics import learned_metrics
from mofo.measure.probe import Probe
from mofo.measure.scoring import held_out_loss
from mofo.models.limits import folder_positions
from mofo.models.load import load_tokenizer, local_folder, resolve_model
from mofo.models.pairing import base_of, load_pair
from mofo.models.precision import autocast, choose_precision, compute_device
from mofo.models.weights import token_rows, weights_of
from mofo.results import Errors, FinalDistance, Metric, Number, Point, Record

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TASK = "task"


class ModelResults(Record):
    """What was measured of one model."""

    learned: dict[str, Number] = Field(description="held-out `loss`; empty where there was no data")
    forgotten: dict[str, dict[str, Number]] = Field(description="per probe its metrics")
    errors: Errors = Field(default=Errors(), description="standard errors of these numbers")
    change_errors: Errors = Field(default=Errors(), description="standard errors of their changes from the base")

    @property
    def point(self) -> Point:
        """The numbers as a point of a comparison."""
        return Point(
            step=0,
            learned={_TASK: self.learned},
            forgotten=self.forgotten,
            errors=self.errors,
            change_errors=self.change_errors,
        )


class PairResults(Record):
    """What was measured of a base and a tuned model."""

    base: ModelResults = Field(description="the base")
    tuned: ModelResults = Field(description="the tuned model")
    distance: FinalDistance = Field(description="distance of the tuned model from the base")
    metrics: list[Metric] = Field(default=[], description="what the numbers of the task and the probes are")
    rows: dict[str, int] = Field(
        default={}, description="number of held-out rows that were not used as they are, by reason"
    )
    notes: list[str] = Field(default=[], description="how the two were made comparable, where they were not")


def measure_pair(
    base: str | None,
    tuned: str,
    *,
    probes: Sequence[str],
    data: str | None = None,
    rows: int = 100,
    max_length: int = 1024,
    columns: Mapping[str, str] | None = None,
    turns: Turns = "all",
    trust_remote_code: bool = False,
    console: Console | None = None,
) -> PairResults:
    """Measure two models of one architecture.

    Where their vocabularies differ, everything is measured on the tokens that both have.

    Args:
        base: The model before, as for `mofo.models.load.load_model`; None for the one that an adapter names.
        tuned: The model after, whole or an adapter, which is merged.
        probes: Probe specifications.
        data: Held-out data of the task; without it nothing is measured of learning.
        rows: The most held-out rows.
        max_length: Tokens to which rows are truncated.
        columns: The data's names of fields, as for `mofo.data.rows.load_rows`.
        turns: Which of the assistant's turns count, as for `mofo.data.tokens.encode`.
        trust_remote_code: Whether code that comes with a model may run.
        console: Where to show progress, if it is a terminal; by default nowhere.

    Raises:
        UserError: A model, probe or data file cannot be used, or the two models are not of one architecture.
    """
    if rows < 1:
        raise UserError(f"--rows is {rows}, expected at least 1.")
    check_probe_specs(probes)
    base = base_of(base, tuned)
    for spec in (base, tuned):
        resolve_model(spec)  # a wrong path is noticed before data are read
    examples: list[Example] = []
    reasons: dict[str, int] = {}
    if data:
        held_out = load_rows(data, split="test", limit=rows, columns=columns)
        folder = local_folder(base)
        whole = encode_rows(
            held_out,
            load_tokenizer(folder, trust_remote_code=trust_remote_code),
            WHOLE,
            turns=turns,
            place=find_row({data: held_out}),
        )
        used = usage(whole, max_length)
        if not used.usable:
            raise UserError(f"No row of {data} has a completion within {max_length} tokens: raise --max-length.")
        check_positions(used.longest, folder_positions(folder, trust_remote_code=trust_remote_code), base)
        reasons = used.by_reason("held-out")
        examples = [example for example in (truncated(row, max_length) for row in whole) if has_labels(example)]
    with _stages(console, 3 + 2 * (len(probes) + bool(examples))) as begin:
        begin("loading the models")
        pair = load_pair(base, tuned, trust_remote_code=trust_remote_code)
        if any(max(example["input_ids"]) >= token_rows(pair.base) for example in examples):
            raise UserError(f"The rows of {data} have tokens that {tuned} does not have: its vocabulary is smaller.")
        models = {"base": pair.base, "tuned model": pair.tuned}
        for model in models.values():
            model.to(compute_device())  # type: ignore[arg-type]  # transformers hides the method's type
        begin("distance")
        distance = weight_distance(weights_of(pair.base), weights_of(pair.tuned))
        pair.tuned.float()
        with autocast(choose_precision("auto")):
            begin("preparing the probes")
            made = make_probes(probes, base=pair.base, tokenizer=pair.tokenizer)
            before, after = (_measure(model, f"of the {name}", examples, made, begin) for name, model in models.items())
    metrics = [*(learned_metrics(_TASK)[:1] if examples else []), *(m for probe in made for m in probe.metrics)]
    return PairResults(
        base=_results(before.point(None)),
        tuned=_results(after.point(before)),
        distance=distance,
        metrics=metrics,
        rows=reasons,
        notes=pair.notes,
    )


def _measure(
    model: PreTrainedModel,
    whose: str,
    examples: Sequence[Example],
    probes: Sequence[Probe],
    begin: Callable[[str], None],
) -> Measured:
    """Return what a model has learned and forgotten, and say what is being measured."""
    learned: dict[str, float] = {}
    if examples:
        begin(f"held-out loss {whose}")
        learned["loss"] = held_out_loss(model, examples)["loss"]
    forgotten = {}
    for probe in probes:
        begin(f"{probe.name} {whose}")
        forgotten[probe.name] = probe.measure(model)
    return Measured(learned={_TASK: learned}, forgotten=forgotten)


@contextmanager
def _stages(console: Console | None, count: int) -> Iterator[Callable[[str], None]]:
    """Show a bar of `count` stages if there is a terminal, and yield the function that begins the next one by name."""
    if console is None or not console.is_terminal:
        yield lambda _: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=count)
        begun = iter(range(count))
        yield lambda name: bar.update(task, description=name, completed=next(begun), refresh=True)


def _results(point: Point) -> ModelResults:
    return ModelResults(
        learned=point.learned[_TASK],
        forgotten=point.forgotten,
        errors=point.errors,
        change_errors=point.change_errors,
    )


def pair_table(results: PairResults) -> Table:
    """Return the results of two models as a table for the terminal; positive changes are worse, as in a comparison."""
    caption = ["change: positive is worse; ± is the standard error"]
    caption += [f"{count} {reason}" for reason, count in results.rows.items()]
    table = Table("", "base", "tuned", "change", caption="\n".join(caption))
    base, tuned, moved = results.base.point, results.tuned.point, results.distance
    for metric in results.metrics:
        label = f"{metric.label}, {metric.unit}" if metric.scale != 1 else metric.label
        table.add_row(
            label,
            _number(metric.of(base), metric.error(base), metric),
            _number(metric.of(tuned), metric.error(tuned), metric),
            _number(metric.change(base, tuned), metric.change_error(tuned), metric, sign="+"),
        )
    table.add_section()
    table.add_row("L2 distance", "", _text(moved.l2, ".4g"), "")
    table.add_row("L2 distance / L2 of the base", "", _text(moved.relative, ".2e"), "")
    table.add_row("entries moved", "", _text(moved.moved, ".2%"), "")
    return table


def pair_verdict(results: PairResults) -> str:
    """Return which probes the tuned model forgot or gained on, and which did not change beyond two standard errors."""
    base, tuned = results.base.point, results.tuned.point
    groups: dict[str, list[str]] = {"forgot": [], "gained on": [], "shows no change beyond noise on": []}
    broken = []
    for metric in results.metrics:
        change = metric.change(base, tuned)
        if change is None:
            broken.append(metric.label)
        elif metric.kind == "forgotten":
            noise = 2 * (metric.change_error(tuned) or 0.0)
            words = (
                "shows no change beyond noise on" if abs(change) <= noise else "forgot" if change > 0 else "gained on"
            )
            groups[words].append(metric.label)
    clauses = [f"{words} {', '.join(labels)}" for words, labels in groups.items() if labels]
    clauses += [f"has no finite {', '.join(broken)}: it diverged"] if broken else []
    return f"The tuned model {'; '.join(clauses)}." if clauses else "No probe was measured."


def pair_legend(results: PairResults) -> list[str]:
    """Return a line for each metric that says what it is."""
    return [f"{metric.label}: {metric.description}" for metric in results.metrics if metric.description]


def _number(value: float | None, error: float | None, metric: Metric, sign: str = "") -> str:
    """Return a number with its standard error, in the unit in which it is shown."""
    if value is None:
        return "–"
    text = format(value * metric.scale, f"{sign}.4f")
    return f"{text} ±{format(error * metric.scale, '.4f')}" if error else text


def _text(value: float | None, form: str) -> str:
    """Return a number as text; a dash where it is not finite, as of a model that diverged."""
    return "–" if value is None else format(value, form)

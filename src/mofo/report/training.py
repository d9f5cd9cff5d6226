"""The report of one training by `mofo sft`, `dpo` or `grpo`: the course of its loss, and what MoFO moved."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mofo.errors import UserError
from mofo.files import write_files
from mofo.forgetting import Forgetting, find_forgetting
from mofo.report.figures import INK, Panel, legend_below, png
from mofo.report.formatting import number, plural, setting_value
from mofo.report.render import render
from mofo.report.section import Details, Plot, Section
from mofo.report.styles import make_styles
from mofo.report.way import way_outcome, way_sections
from mofo.training import LogEntry, Training, load_training

if TYPE_CHECKING:
    from rich.table import Table

SHARES = {"selected": "selected", "moved": "moved", "overlap": "of them moved in the step before, too"}
"""Shares of the entries that a log may have, with what the figure calls them."""


GOALS = {
    "sft": ("loss", "the training loss"),
    "dpo": ("preferred", "the share of pairs in which chosen is preferred"),
    "grpo": ("reward", "the mean reward"),
}
"""By objective: the field of the log that says how far it is reached, and what that is."""


FURTHER = (
    ("preferred", "Pairs in which chosen is preferred", "share of the pairs"),
    ("margin", "Margin of chosen over rejected", "nats"),
    ("reward", "Mean reward", "reward"),
    ("kl", "KL from the reference", "nats per token"),
)
"""What the log of a training by preferences or rewards has, the titles of its figures, and their units."""


@dataclass(frozen=True)
class TrainingReport:
    """What the folder of a model says of its training, ready to be shown.

    Attributes:
        folder: The folder.
        training: How the model was trained.
        log: The training log.
        forgetting: What was forgotten on the way; None if that was not watched.
    """

    folder: Path
    training: Training
    log: Sequence[LogEntry]
    forgetting: Forgetting | None = None

    @property
    def outcome(self) -> str:
        """What came out, in a sentence or two."""
        training, losses = self.training, [entry for entry in self.log if entry.held_out_loss is None]
        began = f"{training.label} trained {Path(training.base).name} for {plural(training.steps, 'step')}"
        if training.steps < training.planned_steps:
            began += f" of {training.planned_steps}"
        sentence = f"{began} on {training.tokens:,} tokens"
        if not losses:
            return f"{sentence}; no loss was logged."
        if (diverged := next((entry for entry in losses if entry.loss is None), None)) is not None:
            return f"{sentence}, and diverged at step {diverged.step}: its training loss was not finite."
        name, what = GOALS[training.objective]
        first, last = (number(getattr(losses[place], name), 4) for place in (0, -1))
        sentence += f": {what} went from {first} to {last}"
        distance = losses[-1].distance
        return f"{sentence}{'' if distance is None else f', at a distance of {number(distance)} from the base'}."

    @property
    def command(self) -> str:
        """The command that measures what was learned and forgotten."""
        names = [self.training.base, str(self.folder)]
        return "mofo measure --base {} --tuned {} --data HELD_OUT.jsonl".format(*map(shlex.quote, names))

    @property
    def facts(self) -> dict[str, str]:
        """What decided the training, for a table."""
        training = self.training
        settings = {
            name if part == next(iter(training.settings)) else f"{part}.{name}": _value(value)
            for part, values in training.settings.items()
            for name, value in values.items()
        }
        return {
            "base": training.base,
            "data": training.data,
            "method": training.label,
            **settings,
            "steps": f"{training.steps} of {training.planned_steps}",
            "rows": "streamed" if training.rows is None else f"{training.rows:,}",
            "epochs": number(training.epochs),
            "tokens": f"{training.tokens:,}",
            "mofo": training.versions["mofo"],
        }


def read_report(folder: Path) -> TrainingReport:
    """Read what `mofo sft`, `dpo` or `grpo` left in the folder of a model.

    Raises:
        UserError: A file is missing or damaged.
    """
    return TrainingReport(folder, *load_training(folder), find_forgetting(folder))


def write_training_report(report: TrainingReport) -> Path:
    """Draw `report.html` and `plots/training.png` into the model's folder.

    Raises:
        UserError: They cannot be written. Nothing is written then.
    """
    record = report.forgetting
    watched = [] if record is None else way_sections(record.model_copy(update={"training": []}))  # the log has it
    sections = [section for section in (_course(report), *watched, _made(report)) if section is not None]
    page = render(
        "training.html.jinja",
        title=f"{Path(report.training.base).name}, fine-tuned with {report.training.label}",
        data=Path(report.training.data).name,
        outcome=report.outcome,
        forgotten="" if record is None else way_outcome(record),
        command=report.command.replace(str(Path.home()), "~"),
        sections=sections,
    )
    files = {f"plots/{section.plot.name}.png": png(section.plot.panels) for section in sections if section.plot}
    try:
        write_files(report.folder, files | {"report.html": page.encode()})
    except OSError as error:
        raise UserError(f"The report cannot be written to {report.folder}: {error.strerror}.") from None
    return report.folder / "report.html"


def facts_table(report: TrainingReport) -> Table:
    """Return what decided the training, for the terminal."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in report.facts.items():
        table.add_row(name, value)
    return table


def log_as_csv(report: TrainingReport) -> str:
    """Return the log as comma-separated values; what was not logged is empty."""
    text = io.StringIO()
    rows = csv.DictWriter(text, list(LogEntry.model_fields), lineterminator="\n")
    rows.writeheader()
    rows.writerows(entry.model_dump() for entry in report.log)
    return text.getvalue()


def log_as_markdown(report: TrainingReport) -> str:
    """Return the log as a Markdown table, with rounded numbers, of what was logged."""
    names = [name for name in LogEntry.model_fields if any(getattr(entry, name) is not None for entry in report.log)]
    rows = [[_value(getattr(entry, name)) for name in names] for entry in report.log]
    return "".join(f"| {' | '.join(line)} |\n" for line in [names, ["---:"] * len(names), *rows])


def report_as_json(report: TrainingReport) -> str:
    """Return both files as one JSON value, the log under `log`."""
    described = report.training.model_dump(mode="json", by_alias=True)
    return json.dumps(described | {"log": [entry.model_dump(mode="json") for entry in report.log]}, indent=1)


def _course(report: TrainingReport) -> Section | None:
    """Return the figure of what was logged; None if nothing was."""
    if not report.log:
        return None
    unit = "nats per token" if report.training.objective == "sft" else "loss"
    panels = [Panel("Loss", _draw(report, {"loss": "training", "held_out_loss": "held out"}, unit))]
    panels += [
        Panel(title, _draw(report, {name: title.lower()}, unit))
        for name, title, unit in FURTHER
        if any(getattr(entry, name) is not None for entry in report.log)
    ]
    if any(entry.distance is not None for entry in report.log):
        panels.append(Panel("Distance from the base", _draw(report, {"distance": "distance"}, "L2 distance")))
    if any(entry.selected is not None for entry in report.log):
        panels.append(Panel("What MoFO moves", _draw(report, SHARES, "share of the entries")))
    return Section(
        "The course of the training",
        plot=Plot("training", panels),
        caption="The training loss is the mean since the point before; a gap is a loss that was not finite.",
    )


def _made(report: TrainingReport) -> Section:
    arguments = {name: _value(value) for name, value in report.training.arguments.items() if value is not None}
    home = str(Path.home())
    return Section(
        "How it was made",
        details=[
            Details("Method", {name: value.replace(home, "~") for name, value in report.facts.items()}),
            Details("All other settings", {name: value.replace(home, "~") for name, value in arguments.items()}),
            Details("Versions", report.training.versions),
        ],
    )


def _draw(report: TrainingReport, curves: dict[str, str], unit: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        styles = make_styles(curves, next(iter(curves)))
        for name, label in curves.items():
            points = [(entry.step, getattr(entry, name)) for entry in report.log]
            known = [(step, value) for step, value in points if value is not None]
            if known:
                style = styles[name]
                mark = style.marker if len(known) < 30 else None
                axes.plot(*zip(*known, strict=True), color=style.colour, marker=mark, ms=4, lw=1.6, label=label)
        axes.set_xlabel("step", color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(unit)
        if len(axes.get_lines()) > 1:
            legend_below(axes)

    return draw


def _value(value: object) -> str:
    """Return a setting or a number as readers write it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return "" if value is None else setting_value(value if isinstance(value, bool | int | float) else str(value))

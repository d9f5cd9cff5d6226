"""The page: one self-contained HTML file, and the figures as PNG beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mofo.errors import UserError
from mofo.files import write_files
from mofo.forgetting import Forgetting
from mofo.report.answer import Answer, make_answer
from mofo.report.comparison import Comparison
from mofo.report.figures import png
from mofo.report.formatting import joined, plural
from mofo.report.render import render
from mofo.report.section import Section
from mofo.report.sections import SECTIONS
from mofo.report.sections.watched import beside
from mofo.results import load_results

_MOST_NAMED = 4  # methods in the title


def write_report(folder: str | Path, watched: Mapping[str, Forgetting] | None = None) -> Path:
    """Draw `report.html` and `plots/*.png` from the `results.json` of an output folder.

    Args:
        folder: An output folder of `mofo compare`.
        watched: Other trainings, watched by a callback, to be drawn beside its runs, by their names.

    Returns:
        The path of `report.html`.

    Raises:
        UserError: Results are missing or damaged, or the report cannot be written. Nothing is written then.
    """
    comparison = Comparison(load_results(folder))
    made = [*(make(comparison) for make in SECTIONS), beside(comparison, watched or {})]
    sections = [section for section in made if section is not None]
    files = {f"plots/{section.plot.name}.png": png(section.plot.panels) for section in sections if section.plot}
    answer = make_answer(comparison, Path(folder).name or folder)  # a page that is passed on names no home folder
    files["report.html"] = _page(comparison, answer, sections).encode()
    try:
        write_files(Path(folder), files)
    except OSError as error:
        raise UserError(f"The report cannot be written to {folder}: {error.strerror}.") from None
    return Path(folder) / "report.html"


def _page(comparison: Comparison, answer: Answer, sections: list[Section]) -> str:
    return render(
        "report.html.jinja",
        title=_title(comparison),
        data=joined([task.data.replace(str(Path.home()), "~") for task in comparison.results.tasks]),
        answer=answer,
        progress=_progress(comparison) if comparison.missing else None,
        sections=sections,
    )


def _title(comparison: Comparison) -> str:
    labels = [comparison.label(method) for method in comparison.methods]
    named = joined(labels) if len(labels) <= _MOST_NAMED else plural(len(labels), "method")
    return f"{named or 'Nothing yet'} on {Path(comparison.results.model).name}"


def _progress(comparison: Comparison) -> str:
    """Return how much of an unfinished comparison is there."""
    last = comparison.last_step
    done = sum(comparison.has_ended(run) for run in comparison.runs)
    missing = [method for method in comparison.planned_methods if method not in comparison.methods]
    parts = [f"{plural(done, 'run')} at step {last}"]
    if under_way := sum(run.method in comparison.planned_methods for run in comparison.results.runs) - done:
        parts.append(f"{under_way} under way")
    if missing:
        parts.append(f"not measured yet: {joined([comparison.label(method) for method in missing])}")
    return "; ".join(parts)

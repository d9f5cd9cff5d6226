"""The page: one self-contained HTML file, and the figures as PNG beside it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mofo.errors import UserError
from mofo.files import write_files
from mofo.report.answer import Answer, make_answer
from mofo.report.comparison import Comparison
from mofo.report.figures import for_dark_page, png, svg
from mofo.report.formatting import joined, plural
from mofo.report.section import Section
from mofo.report.sections import SECTIONS
from mofo.results import load_results

_MOST_NAMED = 4  # methods in the title


def write_report(folder: str | Path) -> Path:
    """Draw `report.html` and `plots/*.png` from the `results.json` of an output folder.

    Args:
        folder: An output folder of `mofo compare`.

    Returns:
        The path of `report.html`.

    Raises:
        UserError: Results are missing or damaged, or the report cannot be written. Nothing is written then.
    """
    comparison = Comparison(load_results(folder))
    sections = [section for make in SECTIONS if (section := make(comparison)) is not None]
    files = {f"plots/{section.plot.name}.png": png(section.plot.panels) for section in sections if section.plot}
    answer = make_answer(comparison, Path(folder).name or folder)  # a page that is passed on names no home folder
    files["report.html"] = _page(comparison, answer, sections).encode()
    try:
        write_files(Path(folder), files)
    except OSError as error:
        raise UserError(f"The report cannot be written to {folder}: {error.strerror}.") from None
    return Path(folder) / "report.html"


def render(template: str, **values: Any) -> str:
    """Return the page of a template of this folder."""
    environment = Environment(
        loader=PackageLoader("mofo.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = svg
    environment.filters["for_dark_page"] = for_dark_page
    environment.filters["data_uri"] = _data_uri
    return environment.get_template(template).render(**values)


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


def _data_uri(picture: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(picture.encode()).decode()

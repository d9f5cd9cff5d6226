"""What was measured of two models, as files: JSON, CSV, Markdown or a page, by the ending of the name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mofo.errors import UserError
from mofo.files import check_new_file, write_text
from mofo.pair import GateResults, PairResults
from mofo.report.gate import gate_csv, gate_markdown
from mofo.report.pair import pair_csv, pair_markdown
from mofo.report.pair_page import pair_page


def _json(found: PairResults | GateResults) -> str:
    return found.model_dump_json(by_alias=True, indent=1) + "\n"


FORMS: dict[str, tuple[Callable[[PairResults], str], Callable[[GateResults], str]]] = {
    ".json": (_json, _json),
    ".csv": (pair_csv, gate_csv),
    ".md": (pair_markdown, gate_markdown),
    ".html": (pair_page, lambda gate: pair_page(gate.results, gate)),
}
"""By the ending of a name what makes the text: of what was measured alone, and with what it was held to."""


def check_pair_files(files: Sequence[Path]) -> None:
    """Check, before anything is measured, that results can be written to files.

    Raises:
        UserError: A name ends in nothing that is known, a file is there already, or its folder is not.
    """
    for file in files:
        if file.suffix not in FORMS:
            *others, last = FORMS
            raise UserError(
                f"--output {file} says no format: expected a name that ends in {', '.join(others)} or {last}."
            )
        check_new_file(file, "--output")


def write_pair_files(found: PairResults | GateResults, files: Sequence[Path]) -> None:
    """Write results to files whose names passed `check_pair_files`.

    Raises:
        UserError: One cannot be written.
    """
    for file in files:
        of_pair, of_gate = FORMS[file.suffix]
        text = of_gate(found) if isinstance(found, GateResults) else of_pair(found)
        try:
            write_text(file, text)
        except OSError as error:
            raise UserError(f"{file} cannot be written: {error.strerror}.") from None

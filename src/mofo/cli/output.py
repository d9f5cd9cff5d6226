"""What commands print: JSON for programs, tables and sentences for readers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mofo.results import Record, Results


def as_json(results: Record) -> str:
    """Return results as JSON, with the names that `results.json` has for them."""
    return results.model_dump_json(by_alias=True, indent=1)


def show(content: RenderableType) -> None:
    """Print a table, or a sentence that the terminal wraps."""
    from rich.console import Console

    Console(soft_wrap=isinstance(content, str), highlight=False, markup=False).print(content)


def show_comparison(results: Results, page: Path) -> None:
    """Print the table and the verdict of a comparison, and where its report lies."""
    from mofo.report import Comparison, summary_table, verdict

    comparison = Comparison(results)
    show(summary_table(comparison))
    show(verdict(comparison))
    show(f"Report: {page}")

"""What commands print: JSON for programs, tables and sentences for readers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from rich.console import RenderableType

    from mofo.results import Record, Results


def as_json(results: Record) -> str:
    """Return results as JSON, with the names that `results.json` has for them."""
    return results.model_dump_json(by_alias=True, indent=1)


def show(content: RenderableType) -> None:
    """Print a table, or a sentence that the terminal wraps."""
    from rich.console import Console

    Console(soft_wrap=isinstance(content, str), highlight=False, markup=False).print(content)


def show_note(text: str) -> None:
    """Print a sentence about what goes on, beside the output."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(text)


def show_written(files: Sequence[Path]) -> None:
    """Print where results were written."""
    for file in files:
        show(f"Written: {file}")


def show_comparison(results: Results, page: Path) -> None:
    """Print the answer and the table of a comparison, and where its report lies."""
    from mofo.report import Comparison, legend, make_answer, sequence_table, summary_table

    comparison = Comparison(results)
    answer = make_answer(comparison, page.parent)
    show(f"Result: {answer.result}")
    for head, advice in (("Take", answer.take), ("To be surer", answer.surer)):
        show(f"{head}: {advice.text}")
        for what, command in advice.commands:
            show(f"  {what}:\n  {command}")
    show("")
    if (tasks := sequence_table(comparison)) is not None:
        show(tasks)
    if comparison.runs:
        show(summary_table(comparison))
    for line in legend(comparison):
        show(line)
    show(f"Report: {page}")


def add_formats(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose how results are printed; without one they are shown to a reader."""
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="print the results as JSON")
    formats.add_argument("--csv", action="store_true", help="print a row per configuration as comma-separated values")
    formats.add_argument("--markdown", action="store_true", help="print a row per configuration as a Markdown table")


def as_table(results: Results, arguments: argparse.Namespace) -> str | None:
    """Return results in the form that `--csv` or `--markdown` asks for; None without these."""
    from mofo.report import Comparison, to_csv, to_markdown

    if arguments.csv:
        return to_csv(Comparison(results))
    return to_markdown(Comparison(results)) if arguments.markdown else None

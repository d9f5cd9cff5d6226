"""`mofo report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.cli.output import add_formats, as_json, as_table, show, show_comparison
from mofo.errors import UserError

if TYPE_CHECKING:
    from mofo.cli.parser import Parser

HELP = "Draw the report of a comparison, a training or a landscape, without a model"
EXAMPLES = """\
examples:
  mofo report mofo-demo
  mofo report mofo-demo --json > results.json
  mofo report mofo-demo --csv > results.csv
  mofo report tuned
"""


def add_arguments(parser: Parser) -> None:
    """Add the folders and the formats."""
    parser.usage = "mofo report FOLDER [FOLDER ...] [--json | --csv | --markdown]"
    parser.epilog = EXAMPLES
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="output folder of mofo compare, sft or landscape"
    )
    add_formats(parser)


def run(arguments: argparse.Namespace) -> int:
    """Draw each report and show its results."""
    from mofo.landscape import FILE_NAME as LANDSCAPE
    from mofo.report import write_report
    from mofo.results import FILE_NAME, load_results
    from mofo.training import FILE_NAME as TRAINING

    printed = []
    for folder in arguments.folders:
        if (folder / LANDSCAPE).exists():
            printed += _report_landscape(folder, arguments)
            continue
        if (folder / TRAINING).exists() and not (folder / FILE_NAME).exists():
            printed += _report_training(folder, arguments)
            continue
        page = write_report(folder)
        results = load_results(folder)
        if arguments.json:
            printed.append(as_json(results))
        elif (table := as_table(results, arguments)) is not None:
            print(table, end="")
        else:
            show_comparison(results, page)
    if printed:
        print(printed[0] if len(printed) == 1 else "[" + ",\n".join(printed) + "]")
    return 0


def _report_landscape(folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Draw the report of a landscape and show it; return its JSON where that is wanted."""
    from mofo.cli.landscape import show_landscape
    from mofo.landscape import load_landscape
    from mofo.report.landscape import write_landscape_report

    if arguments.csv or arguments.markdown:
        raise UserError(f"{folder} is a landscape, which has no table of runs: leave --csv and --markdown out.")
    page, found = write_landscape_report(folder), load_landscape(folder)
    if arguments.json:
        return [as_json(found)]
    show_landscape(found, page)
    return []


def _report_training(folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Draw the report of a training and show it; return its JSON where that is wanted."""
    from mofo.report import training

    found = training.read_report(folder)
    page = training.write_training_report(found)
    if arguments.json:
        return [training.report_as_json(found)]
    if arguments.csv or arguments.markdown:
        print(training.log_as_csv(found) if arguments.csv else training.log_as_markdown(found), end="")
        return []
    show(f"Result: {found.outcome}")
    show(f"What it learned and forgot:\n  {found.command}")
    show("")
    show(training.facts_table(found))
    show(f"Report: {page}")
    return []

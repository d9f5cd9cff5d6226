"""`mofo report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.cli.output import add_formats, as_json, as_table, show_comparison

if TYPE_CHECKING:
    from mofo.cli.parser import Parser

HELP = "Draw the report of a comparison again, without a model"
EXAMPLES = """\
examples:
  mofo report mofo-demo
  mofo report mofo-demo --json > results.json
  mofo report mofo-demo --csv > results.csv
"""


def add_arguments(parser: Parser) -> None:
    """Add the folders and the formats."""
    parser.usage = "mofo report FOLDER [FOLDER ...] [--json | --csv | --markdown]"
    parser.epilog = EXAMPLES
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="output folder of mofo compare")
    add_formats(parser)


def run(arguments: argparse.Namespace) -> int:
    """Draw each report and show its results."""
    from mofo.report import write_report
    from mofo.results import load_results

    printed = []
    for folder in arguments.folders:
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

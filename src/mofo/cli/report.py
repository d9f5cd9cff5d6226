"""`mofo report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.cli.output import add_formats, as_json, as_table, show, show_comparison
from mofo.errors import UserError

if TYPE_CHECKING:
    from mofo.cli.parser import Parser
    from mofo.forgetting import Forgetting

HELP = "Draw the report of a comparison, a training or a landscape, without a model"
EXAMPLES = """\
examples:
  mofo report mofo-demo
  mofo report mofo-demo --json > results.json
  mofo report mofo-demo --csv > results.csv
  mofo report tuned
  mofo report mofo-demo tuned
"""


def add_arguments(parser: Parser) -> None:
    """Add the folders and the formats."""
    parser.usage = "mofo report FOLDER [FOLDER ...] [--json | --csv | --markdown]"
    parser.epilog = EXAMPLES
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="output folder of mofo compare, sft, dpo, grpo, blend or landscape, or of a training with "
        "ForgettingCallback, which is drawn into comparisons given with it too",
    )
    add_formats(parser)


def run(arguments: argparse.Namespace) -> int:
    """Draw each report and show its results."""
    from mofo.forgetting import FILE_NAME as FORGETTING
    from mofo.landscape import FILE_NAME as LANDSCAPE
    from mofo.results import FILE_NAME
    from mofo.training import FILE_NAME as TRAINING

    printed = []
    for folder in arguments.folders:
        if (folder / LANDSCAPE).exists():
            printed += _report_landscape(folder, arguments)
        elif (folder / FILE_NAME).exists():
            printed += _report_comparison(folder, arguments)
        elif (folder / TRAINING).exists():
            printed += _report_training(folder, arguments)
        elif (folder / FORGETTING).exists():
            printed += _report_way(folder, arguments)
        else:
            printed += _report_comparison(folder, arguments)  # which says what is missing
    if printed:
        print(printed[0] if len(printed) == 1 else "[" + ",\n".join(printed) + "]")
    return 0


def _report_comparison(folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Draw the report of a comparison and show it; return its JSON where that is wanted."""
    from mofo.report import write_report
    from mofo.results import load_results

    page = write_report(folder, watched=_watched(arguments.folders))
    results = load_results(folder)
    if arguments.json:
        return [as_json(results)]
    if (table := as_table(results, arguments)) is not None:
        print(table, end="")
    else:
        show_comparison(results, page)
    return []


def _watched(folders: list[Path]) -> dict[str, Forgetting]:
    """Return the watched trainings among folders, by the names of these."""
    from mofo.forgetting import find_forgetting

    found = {folder.resolve().name: find_forgetting(folder) for folder in folders}
    return {name: record for name, record in found.items() if record is not None and record.over == "step"}


def _report_way(folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Draw the report of a watched training, or of a way that was measured, and show it; return its JSON if wanted."""
    from mofo.forgetting import load_forgetting
    from mofo.report.way import way_csv, way_legend, way_markdown, way_outcome, way_table, write_way_report

    record = load_forgetting(folder)
    page = write_way_report(record, folder)
    if arguments.json:
        return [as_json(record)]
    if arguments.csv or arguments.markdown:
        print((way_csv if arguments.csv else way_markdown)(record), end="")
        return []
    show(f"Result: {way_outcome(record)}")
    show("")
    show(way_table(record))
    for line in [*way_legend(record), *record.notes]:
        show(line)
    show(f"Report: {page}")
    return []


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
    from mofo.report.way import way_outcome, way_table

    found = training.read_report(folder)
    page = training.write_training_report(found)
    if arguments.json:
        return [training.report_as_json(found)]
    if arguments.csv or arguments.markdown:
        print(training.log_as_csv(found) if arguments.csv else training.log_as_markdown(found), end="")
        return []
    show(f"Result: {found.outcome}")
    if found.forgetting is not None:
        show(way_outcome(found.forgetting))
    show(f"What it learned and forgot:\n  {found.command}")
    show("")
    show(training.facts_table(found))
    if found.forgetting is not None:
        show("")
        show(way_table(found.forgetting))
    show(f"Report: {page}")
    return []

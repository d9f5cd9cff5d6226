"""Flags that say how models are measured, for the commands that take a base and a tuned model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.cli.row_flags import add_row_flags

if TYPE_CHECKING:
    from mofo.measure.prepared import Reading

PROBES_HELP = (
    "measures of forgetting; also text:FILE.txt, choice:FILE.jsonl, harness:TASK[@LIMIT] and suites: `mofo probes` "
    "lists all"
)


def add_pair(parser: argparse.ArgumentParser) -> None:
    """Add the two models as arguments; an adapter names its base."""
    parser.add_argument(
        "base",
        nargs="?",
        metavar="BASE",
        help="model before: hub id, folder, .gguf file or smollm2-135m (default: the one that an adapter names)",
    )
    parser.add_argument("tuned", metavar="TUNED", help="model after, likewise, or a LoRA adapter")


def add_measuring_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags of held-out rows and of what probes need."""
    group.add_argument(
        "--rows", type=int, default=100, metavar="N", help="use only the first N held-out rows (default 100)"
    )
    add_row_flags(group)
    group.add_argument(
        "--harness-data", type=Path, metavar="FOLDER", help="folder with the rows of harness tasks, instead of the Hub"
    )
    group.add_argument(
        "--allow-code-execution", action="store_true", help="run code that the models write, for tasks of programming"
    )


def add_results_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where the results of two models go."""
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument(
        "--output",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="write the results to a new file too: page.html, or .json, .csv, .md (may be given again)",
    )
    parser.add_argument(
        "--save-answers", type=Path, metavar="FOLDER", help="write what the models answered to each question"
    )


def measuring_options(arguments: argparse.Namespace) -> Reading:
    """Return what these flags say, as `mofo.measure.prepared.prepare` takes it."""
    from mofo.measure.probe import Options

    return {
        "rows": arguments.rows,
        "max_length": arguments.max_length,
        "columns": arguments.columns,
        "turns": arguments.turns,
        "trust_remote_code": arguments.trust_remote_code,
        "options": Options(arguments.harness_data, arguments.allow_code_execution),
    }

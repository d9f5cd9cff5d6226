"""`mofo landscape`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.cli.output import as_json, show, show_note
from mofo.cli.recipe_flags import split_commas
from mofo.cli.row_flags import add_row_flags

if TYPE_CHECKING:
    from mofo.cli.parser import Parser
    from mofo.landscape import Landscape

HELP = "Map learning and forgetting in the plane through a base and two tuned models"
EXAMPLES = """\
Each MODEL is a model or an adapter, or a run of mofo compare --save all
(runs/NAME in its folder). The first two span the plane; further ones are
projected onto it, and so is each checkpoint-N beside a model, which
mofo compare --save points keeps.

examples:
  mofo landscape smollm2-135m adamw lion --data held-out.jsonl
  mofo landscape smollm2-135m comparison/runs/*-s0 --probes text --resolution 31
"""


def add_arguments(parser: Parser) -> None:
    """Add the models and the flags."""
    parser.usage = "mofo landscape BASE MODEL MODEL [MODEL ...] [--data DATA] [flags]"
    parser.epilog = EXAMPLES
    parser.add_argument("base", metavar="BASE", help="model before: hub id, folder, .gguf file or smollm2-135m")
    parser.add_argument("models", metavar="MODEL", nargs="+", help="models tuned from it, adapters, or folders of runs")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("mofo-landscape"),
        metavar="FOLDER",
        help="folder of the results (default mofo-landscape); an interrupted measurement goes on there",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the landscape in that folder")
    parser.add_argument(
        "--resolution",
        type=int,
        default=21,
        metavar="N",
        help="measure N x N points (default 21); 2N - 1 keeps all points of a map with N",
    )
    measuring = parser.add_argument_group("measuring")
    measuring.add_argument("--data", metavar="DATA", help="held-out data of the task: file, folder, pattern or hub id")
    measuring.add_argument(
        "--rows", type=int, default=100, metavar="N", help="use only the first N of its rows (default 100)"
    )
    add_row_flags(measuring)
    measuring.add_argument(
        "--probes",
        type=split_commas,
        default=["text"],
        metavar="PROBE,...",
        help="measures of forgetting, taken at every point (default text): `mofo probes` lists all with their cost",
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with a model")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure the plane, draw it, and show where the models are."""
    from mofo.measure.landscape import measure_landscape
    from mofo.measure.progress import bars
    from mofo.report.landscape import write_landscape_report

    def begun(missing: int, total: int) -> None:
        show_note(f"{missing} of {total} points are to be measured")

    try:
        with bars():
            found = measure_landscape(
                arguments.base,
                arguments.models,
                arguments.output,
                data=arguments.data,
                probes=arguments.probes,
                resolution=arguments.resolution,
                rows=arguments.rows,
                max_length=arguments.max_length,
                columns=arguments.columns,
                turns=arguments.turns,
                trust_remote_code=arguments.trust_remote_code,
                overwrite=arguments.overwrite,
                begun=begun,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("run the same command again to resume") from None
    page = write_landscape_report(arguments.output)
    if arguments.json:
        print(as_json(found))
    else:
        show_landscape(found, page)
    return 0


def show_landscape(found: Landscape, page: Path) -> None:
    """Print where the models are, what was measured of them, and where the report lies."""
    from rich.table import Table

    from mofo.report.landscape import models_table

    heads, *rows = models_table(found)
    table = Table(box=None, pad_edge=False)
    for head in heads:
        table.add_column(head, justify="right" if head else "left", no_wrap=not head)
    for row in rows:
        table.add_row(*row)
    show(table)
    show(f"x and y in units of the way from the base to {found.ends[0].name}; the numbers are the models' own.")
    show(f"Report: {page}")

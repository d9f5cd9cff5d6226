"""`mofo tune`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.cli.output import show
from mofo.cli.recipe_flags import add_recipe_flags, recipe_values
from mofo.errors import UserError

if TYPE_CHECKING:
    from mofo.cli.parser import Parser

HELP = "Find method, learning rate and fraction for your data within a time limit"
RECIPE = Path(__file__).parents[1] / "compare" / "search.yaml"
EXAMPLES = """\
examples:
  mofo tune --data my.jsonl --budget divergence=0.05 --time 30m
  mofo tune --data my.jsonl --budget text=0.02 --methods mofo,mofo+self-distill

Many short runs first, the best third of them three times as long, until two are
left; all are pulled back to the budget, so that what they learned ranks them.
--steps or --epochs is the length of the full run.
"""


def add_arguments(parser: Parser) -> None:
    """Add the flags of a search, and those of a recipe with the search's own defaults."""
    from mofo.compare.recipe import make_recipe, read_recipe

    parser.usage = "mofo tune --data DATA --budget PROBE=X [--time TIME] [settings]"
    parser.epilog = EXAMPLES
    parser.add_argument(
        "--budget", required=True, metavar="PROBE=X", help="by how much a probe may get worse, such as divergence=0.05"
    )
    parser.add_argument("--time", default="30m", metavar="TIME", help="how long: 30m, 2h, 90s (default 30m)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("mofo-tune"),
        metavar="FOLDER",
        help="folder of the search (default mofo-tune); an interrupted one resumes there",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the search in that folder")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at the same time (default 1)")
    add_recipe_flags(parser, make_recipe(read_recipe(RECIPE)))


def run(arguments: argparse.Namespace) -> int:
    """Search, and show what was found."""
    from mofo.compare.recipe import override, read_recipe
    from mofo.compare.search import parse_time, search
    from mofo.report import Comparison, legend, summary_table
    from mofo.trainers.budget import parse_budget

    if arguments.jobs < 1:
        raise UserError(f"--jobs is {arguments.jobs}, expected at least 1.")
    budget, seconds = parse_budget(arguments.budget), parse_time(arguments.time)
    values = override(read_recipe(RECIPE), recipe_values(arguments))
    try:
        found = search(
            values,
            arguments.output,
            budget=budget,
            seconds=seconds,
            jobs=arguments.jobs,
            overwrite=arguments.overwrite,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("run the same command again to resume") from None
    rounds = ", then ".join(f"{tried.candidates} candidates for {tried.steps} steps" for tried in found.rounds)
    show(f"Tried: {rounds}; each pulled back to {arguments.budget}.")
    if not found.has_learned:
        show("None of them learned anything within the budget: give more --time, a larger --budget or other data.")
    comparison = Comparison(found.results)
    show(summary_table(comparison))
    for line in legend(comparison):
        show(line)
    show(f"Evidence: {found.folder / 'report.html'}")
    show(f"The full run:\n  {found.command}")
    return 0

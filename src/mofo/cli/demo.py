"""`mofo demo`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.cli.compare import add_comparison_flags, run_comparison
from mofo.cli.recipe_flags import add_recipe_flags

if TYPE_CHECKING:
    from mofo.cli.parser import Parser

HELP = "Compare AdamW, MoFO and self-distillation in a few minutes"
RECIPE = Path(__file__).parents[1] / "compare" / "demo.yaml"
EXAMPLES = """\
examples:
  mofo demo
  mofo demo --jobs 2 --seeds 0,1,2 --output three-seeds
"""


def add_arguments(parser: Parser) -> None:
    """Add the flags of a comparison, with the demo's own defaults."""
    from mofo.compare.recipe import make_recipe, read_recipe

    parser.usage = "mofo demo [--output FOLDER] [settings]"
    parser.epilog = EXAMPLES
    add_comparison_flags(parser, default_output="mofo-demo")
    add_recipe_flags(parser, make_recipe(read_recipe(RECIPE)))


def run(arguments: argparse.Namespace) -> int:
    """Run the demo's comparison."""
    return run_comparison(arguments, RECIPE)

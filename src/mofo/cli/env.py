"""`mofo env`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mofo.cli.parser import Parser

HELP = "Show versions, devices, and what computes a step on them"
EXAMPLES = """\
examples:
  mofo env
  mofo env --json
"""


def add_arguments(parser: Parser) -> None:
    """Add `--json`."""
    parser.usage = "mofo env [--json]"
    parser.epilog = EXAMPLES
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Show what a report of a fault should name."""
    from mofo.machine import environment, environment_text

    found = environment()
    print(json.dumps(found, indent=1) if arguments.json else environment_text(found))
    return 0

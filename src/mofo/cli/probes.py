"""`mofo probes`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from mofo.cli.output import show

if TYPE_CHECKING:
    from mofo.cli.parser import Parser

HELP = "List the measures of forgetting, or explain one"
EXAMPLES = """\
examples:
  mofo probes
  mofo probes divergence
"""


def add_arguments(parser: Parser) -> None:
    """Add the name and `--json`."""
    parser.usage = "mofo probes [NAME] [--json]"
    parser.epilog = EXAMPLES
    parser.add_argument("name", nargs="?", metavar="NAME", help="explain this one: what it measures, how, and its cost")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Show all kinds of probes or one."""
    from mofo.measure.kinds import KINDS
    from mofo.measure.listing import kind_info, kind_text, kinds_table

    if arguments.json:
        chosen = [arguments.name] if arguments.name else KINDS
        print(json.dumps([kind_info(name) for name in chosen], indent=1, ensure_ascii=False))
    elif arguments.name:
        print(kind_text(arguments.name))
    else:
        show(kinds_table())
    return 0

"""`mofo methods`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from mofo.cli.output import show

if TYPE_CHECKING:
    from mofo.cli.parser import Parser

HELP = "List the optimizers and extras, or explain one"
EXAMPLES = """\
examples:
  mofo methods
  mofo methods self-distill
"""


def add_arguments(parser: Parser) -> None:
    """Add the name and `--json`."""
    parser.usage = "mofo methods [NAME] [--json]"
    parser.epilog = EXAMPLES
    parser.add_argument("name", nargs="?", metavar="NAME", help="explain this one: settings, cost and source")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Show all parts or one."""
    from mofo.methods import parts
    from mofo.methods.listing import find_part, part_info, part_text, parts_table

    if arguments.json:
        chosen = [find_part(arguments.name)] if arguments.name else parts.PARTS
        print(json.dumps([part_info(part) for part in chosen], indent=1, ensure_ascii=False))
    elif arguments.name:
        print(part_text(find_part(arguments.name)))
    else:
        show(parts_table())
    return 0

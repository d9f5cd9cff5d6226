"""`mofo dpo`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mofo.cli import sft

if TYPE_CHECKING:
    from mofo.cli.parser import Parser

HELP = "Learn from preferences: the flags of trl dpo, and --method"


def add_arguments(parser: Parser) -> None:
    """Take every word as it is, `--help` too: trl's parser reads them."""
    sft.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train as `trl dpo` does."""
    from mofo.trainers.trl.command import main

    return main("dpo", arguments.words)

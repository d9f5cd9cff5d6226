"""`mofo sft`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mofo.cli.parser import Parser

HELP = "Fine-tune and forget little: the flags of trl sft, and --method"


def add_arguments(parser: Parser) -> None:
    """Take every word as it is, `--help` too: trl's parser reads them."""
    parser.prefix_chars = ""
    parser.add_argument("words", nargs=argparse.REMAINDER)


def run(arguments: argparse.Namespace) -> int:
    """Train as `trl sft` does."""
    from mofo.trainers.trl.command import main

    return main("sft", arguments.words)

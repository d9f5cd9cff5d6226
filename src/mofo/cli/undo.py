"""`mofo undo`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.cli.apply import add_output
from mofo.cli.output import as_json, show

if TYPE_CHECKING:
    from mofo.cli.parser import Parser

HELP = "Write the base that a tuned model and its delta lead back to"
EXAMPLES = """\
examples:
  mofo undo tuned change.safetensors --output base
  mofo undo tuned-twice one.safetensors two.safetensors --output base
"""


def add_arguments(parser: Parser) -> None:
    """Add the tuned model, the deltas and the flags."""
    parser.usage = "mofo undo TUNED DELTA [DELTA ...] --output FOLDER [--overwrite]"
    parser.epilog = EXAMPLES
    parser.add_argument("tuned", metavar="TUNED", help="model after: hub id, folder, .gguf file or smollm2-135m")
    parser.add_argument(
        "deltas", metavar="DELTA", nargs="+", type=Path, help="files of mofo diff, in the order they were applied in"
    )
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the base."""
    from mofo.deltas import undo_deltas

    restored = undo_deltas(arguments.tuned, arguments.deltas, arguments.output, overwrite=arguments.overwrite)
    if arguments.json:
        print(as_json(restored))
    else:
        assert restored.sha256 is not None, "nothing was scaled"
        show(f"Wrote {restored.folder}: the base to the bit (its weights have the hash {restored.sha256[:16]}…).")
    return 0

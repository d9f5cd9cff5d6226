"""`mofo diff`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.cli.output import as_json, show

if TYPE_CHECKING:
    from mofo.cli.parser import Parser

HELP = "Write the change from a base to a tuned model as a file"
EXAMPLES = """\
examples:
  mofo diff smollm2-135m tuned change.safetensors
  mofo diff smollm2-135m tuned small.safetensors --bits 8
  mofo apply smollm2-135m change.safetensors --output tuned-again
  mofo undo tuned change.safetensors --output base-again
"""


def add_arguments(parser: Parser) -> None:
    """Add the models, the file and the flags."""
    parser.usage = "mofo diff BASE TUNED OUT.safetensors [--bits 8] [--json]"
    parser.epilog = EXAMPLES
    parser.add_argument("base", metavar="BASE", help="model before: hub id, folder, .gguf file or smollm2-135m")
    parser.add_argument("tuned", metavar="TUNED", help="model after, likewise, or an adapter")
    parser.add_argument("file", metavar="OUT.safetensors", type=Path, help="file to write")
    parser.add_argument(
        "--bits",
        type=int,
        choices=(8,),
        help="round each change to 8 bits, which takes less room and does not lead back to the base (default: exact)",
    )
    parser.add_argument("--json", action="store_true", help="print sizes, hashes and errors as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Write the delta, and say how large it is."""
    from mofo.deltas import make_delta
    from mofo.deltas.diff import description

    summary = make_delta(arguments.base, arguments.tuned, arguments.file, bits=arguments.bits)
    if arguments.json:
        print(as_json(summary))
    else:
        for line in description(summary):
            show(line)
    return 0

"""`mofo apply`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.cli.output import as_json, show

if TYPE_CHECKING:
    from mofo.cli.parser import Parser

HELP = "Write the tuned model that a base and its delta make"
EXAMPLES = """\
examples:
  mofo apply smollm2-135m change.safetensors --output tuned
  mofo apply smollm2-135m change.safetensors --scale 0.8 --output milder
  mofo apply smollm2-135m one.safetensors two.safetensors --output tuned-twice
"""


def add_arguments(parser: Parser) -> None:
    """Add the base, the deltas and the flags."""
    parser.usage = "mofo apply BASE DELTA [DELTA ...] --output FOLDER [flags]"
    parser.epilog = EXAMPLES
    parser.add_argument("base", metavar="BASE", help="model before: hub id, folder, .gguf file or smollm2-135m")
    parser.add_argument(
        "deltas", metavar="DELTA", nargs="+", type=Path, help="files of mofo diff; each goes on where the last ends"
    )
    add_output(parser)
    parser.add_argument(
        "--scale", type=number, default=1.0, metavar="X", help="share of the change to apply (default 1: to the bit)"
    )


def add_output(parser: Parser) -> None:
    """Add the flags that say where a model is written."""
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to write the model to")
    parser.add_argument("--overwrite", action="store_true", help="replace the model in that folder")
    parser.add_argument("--json", action="store_true", help="print the folder and the hash as JSON")


def number(text: str) -> float:
    """Return a finite number of the command line."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number, such as 0.8")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Write the tuned model."""
    from mofo.deltas import apply_deltas

    restored = apply_deltas(
        arguments.base, arguments.deltas, arguments.output, scale=arguments.scale, overwrite=arguments.overwrite
    )
    if arguments.json:
        print(as_json(restored))
    elif restored.sha256 is None:
        show(f"Wrote {restored.folder}: {arguments.scale:g} of the change.")
    else:
        show(
            f"Wrote {restored.folder}: the tuned model to the bit (its weights have the hash {restored.sha256[:16]}…)."
        )
    return 0

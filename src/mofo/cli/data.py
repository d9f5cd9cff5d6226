"""`mofo data`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mofo.cli.output import as_json, show
from mofo.cli.row_flags import add_row_flags

if TYPE_CHECKING:
    from mofo.cli.parser import Parser

HELP = "Show what a model would learn from data, before it is trained"
EXAMPLES = """\
examples:
  mofo data data.jsonl
  mofo data data.csv --columns question=Prompt,answer=Reply --model tuned
"""


def add_arguments(parser: Parser) -> None:
    """Add the data and the flags."""
    parser.usage = "mofo data DATA [--model MODEL] [flags]"
    parser.epilog = EXAMPLES
    parser.add_argument(
        "data",
        metavar="DATA",
        help="file, folder or pattern of .jsonl, .json, .csv, .parquet or .arrow files, hub id[:config] or "
        "reasoning-gym:FAMILY",
    )
    parser.add_argument(
        "--model",
        default="smollm2-135m",
        metavar="MODEL",
        help="model whose tokenizer is used: hub id, folder or .gguf file (default smollm2-135m)",
    )
    parser.add_argument("--split", default="train", metavar="NAME", help="split of a hub data set (default train)")
    parser.add_argument("--rows", type=int, metavar="N", help="read only the first N rows")
    add_row_flags(parser.add_argument_group("rows"))
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with a model")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Read the rows and show them."""
    from mofo.data.show import describe_data, shown

    description = describe_data(
        arguments.data,
        arguments.model,
        split=arguments.split,
        limit=arguments.rows,
        max_length=arguments.max_length,
        columns=arguments.columns,
        turns=arguments.turns,
        trust_remote_code=arguments.trust_remote_code,
    )
    if arguments.json:
        print(as_json(description))
    else:
        show(shown(description))
    return 0

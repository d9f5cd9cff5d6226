"""`mofo measure`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mofo.cli.output import as_json, show
from mofo.cli.recipe_flags import split_commas
from mofo.cli.row_flags import add_row_flags

if TYPE_CHECKING:
    from mofo.cli.parser import Parser

HELP = "Measure what a tuned model learned and what it forgot"
EXAMPLES = """\
examples:
  mofo measure --base smollm2-135m --tuned tuned
  mofo measure --base smollm2-135m --tuned tuned --data held-out.jsonl
  mofo measure --tuned lora-adapter
"""


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.usage = "mofo measure [--base MODEL] --tuned MODEL [--data DATA] [flags]"
    parser.epilog = EXAMPLES
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    models = parser.add_argument_group("models")
    models.add_argument(
        "--base",
        metavar="MODEL",
        help="model before: hub id, folder, .gguf file or smollm2-135m (default: the one that an adapter names)",
    )
    models.add_argument("--tuned", required=True, metavar="MODEL", help="model after, likewise, or a LoRA adapter")
    models.add_argument("--trust-remote-code", action="store_true", help="run code that comes with a model")
    measuring = parser.add_argument_group("measuring")
    measuring.add_argument(
        "--data", metavar="DATA", help="held-out data of the task: file, folder or pattern of files, or hub id"
    )
    measuring.add_argument(
        "--rows", type=int, default=100, metavar="N", help="use only the first N of its rows (default 100)"
    )
    add_row_flags(measuring)
    measuring.add_argument(
        "--probes",
        type=split_commas,
        default=["text", "divergence", "choice"],
        metavar="PROBE,...",
        help="measures of forgetting; also text:FILE.txt and choice:FILE.jsonl (default text,divergence,choice)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure both models and show the results."""
    from rich.console import Console

    from mofo.measure.pair import measure_pair, pair_legend, pair_table, pair_verdict

    results = measure_pair(
        arguments.base,
        arguments.tuned,
        probes=arguments.probes,
        data=arguments.data,
        rows=arguments.rows,
        max_length=arguments.max_length,
        columns=arguments.columns,
        turns=arguments.turns,
        trust_remote_code=arguments.trust_remote_code,
        console=Console(stderr=True),
    )
    if arguments.json:
        print(as_json(results))
    else:
        show(pair_verdict(results))
        show(pair_table(results))
        for line in [*pair_legend(results), *results.notes]:
            show(line)
    return 0

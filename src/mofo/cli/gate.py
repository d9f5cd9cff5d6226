"""`mofo gate`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mofo.cli.measuring_flags import add_measuring_flags, add_pair, add_results_flags, measuring_options
from mofo.cli.output import as_json, show, show_written
from mofo.cli.recipe_flags import split_commas

if TYPE_CHECKING:
    from mofo.cli.parser import Parser

HELP = "Decide by what it learned and forgot whether a tuned model may be shipped"
EXAMPLES = """\
examples:
  mofo gate smollm2-135m tuned --learned held-out.jsonl
  mofo gate smollm2-135m tuned --forgotten "divergence<0.05,choice"
  mofo gate adapter --learned "rows.jsonl<-0.2" --forgotten "harness:mmlu>-0.02"
  mofo gate adapter --forgotten "divergence<0.05" --output gate.html

exit code: 0 ship, 3 do not, 4 too little evidence: the 95 % interval of a
change holds its limit
"""


def add_arguments(parser: Parser) -> None:
    """Add the models, the bounds and the flags."""
    parser.usage = "mofo gate [BASE] TUNED [--learned DATA] [--forgotten BOUND,...] [flags]"
    parser.epilog = EXAMPLES
    add_pair(parser)
    add_results_flags(parser)
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with a model")
    bounds = parser.add_argument_group("bounds, on the change from the base (tuned minus base)")
    bounds.add_argument(
        "--learned",
        metavar="DATA[<X]",
        help="held-out data on which the loss must have fallen; with <X to below X, such as held-out.jsonl<-0.2",
    )
    bounds.add_argument(
        "--forgotten",
        type=split_commas,
        default=[],
        metavar="BOUND,...",
        help="PROBE<X where lower is better, PROBE>X where higher is (two points of accuracy: >-0.02), or PROBE alone: "
        "no worse beyond chance",
    )
    add_measuring_flags(parser.add_argument_group("measuring"))


def run(arguments: argparse.Namespace) -> int:
    """Measure, and say what came out."""
    from mofo.measure.gate import EXIT_CODES, measure_gate
    from mofo.measure.progress import bars
    from mofo.report.pair_files import check_pair_files, write_pair_files

    check_pair_files(arguments.output)
    with bars():
        gate = measure_gate(
            arguments.base,
            arguments.tuned,
            learned=arguments.learned,
            forgotten=arguments.forgotten,
            answers=arguments.save_answers,
            **measuring_options(arguments),
        )
    try:
        write_pair_files(gate, arguments.output)
    finally:
        if arguments.json:
            print(as_json(gate))
        else:
            show(gate.sentence)
            show_written(arguments.output)
    return EXIT_CODES[gate.verdict]

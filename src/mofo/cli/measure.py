"""`mofo measure`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from mofo.cli.measuring_flags import PROBES_HELP, add_measuring_flags, add_results_flags, measuring_options
from mofo.cli.output import as_json, show, show_written
from mofo.cli.recipe_flags import split_commas

if TYPE_CHECKING:
    from mofo.cli.parser import Parser
    from mofo.pair import PairResults

HELP = "Measure what a tuned model learned and what it forgot"
EXAMPLES = """\
examples:
  mofo measure --base smollm2-135m --tuned tuned
  mofo measure --base smollm2-135m --tuned tuned --data held-out.jsonl
  mofo measure --tuned lora-adapter --output page.html --output numbers.csv
  mofo measure --tuned lora-adapter --probes general --fail-on harness:mmlu
"""

REGRESSION = 3
"""Exit code where a probe that `--fail-on` names got worse beyond chance."""


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.usage = "mofo measure [--base MODEL] --tuned MODEL [--data DATA] [flags]"
    parser.epilog = EXAMPLES
    add_results_flags(parser)
    parser.add_argument(
        "--fail-on",
        type=split_commas,
        default=[],
        metavar="PROBE,...",
        help=f"exit with code {REGRESSION} if one of these probes got worse beyond its interval",
    )
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
    add_measuring_flags(measuring)
    measuring.add_argument(
        "--probes",
        type=split_commas,
        default=["text", "divergence", "choice"],
        metavar="PROBE,...",
        help=f"{PROBES_HELP} (default text,divergence,choice)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure both models and show the results."""
    from mofo.errors import UserError
    from mofo.measure.bounds import judge, parse_bound
    from mofo.measure.pair import measure_pair
    from mofo.measure.progress import bars
    from mofo.report.pair_files import check_pair_files, write_pair_files

    check_pair_files(arguments.output)
    bounds = [parse_bound(text) for text in arguments.fail_on]
    if limited := next((bound for bound in bounds if bound.sign), None):
        raise UserError(f"--fail-on takes probes without a number: mofo gate holds a model to {limited}.")
    with bars():
        results = measure_pair(
            arguments.base,
            arguments.tuned,
            probes=arguments.probes,
            data=arguments.data,
            answers=arguments.save_answers,
            bounds=bounds,
            **measuring_options(arguments),
        )
    try:
        write_pair_files(results, arguments.output)
    finally:
        _show(results, arguments)
    worse = [finding.metric for finding in judge(bounds, results) if finding.outcome == "broken"]
    if worse:
        print(f"mofo measure: the tuned model got worse on {', '.join(dict.fromkeys(worse))}", file=sys.stderr)
    return REGRESSION if worse else 0


def _show(results: PairResults, arguments: argparse.Namespace) -> None:
    """Print the results: for a program, or for a reader with where they were written."""
    from mofo.report.pair import pair_legend, pair_table, pair_verdict

    if arguments.json:
        print(as_json(results))
        return
    show(pair_verdict(results))
    show(pair_table(results))
    for line in [*pair_legend(results), *results.notes]:
        show(line)
    show_written(arguments.output)

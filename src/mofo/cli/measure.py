"""`mofo measure`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.cli.output import as_json, measuring_bars, show
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
  mofo measure --tuned lora-adapter --probes general --fail-on harness:mmlu
"""

REGRESSION = 3
"""Exit code where a probe that `--fail-on` names got worse beyond chance."""


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.usage = "mofo measure [--base MODEL] --tuned MODEL [--data DATA] [flags]"
    parser.epilog = EXAMPLES
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="print the results as JSON")
    formats.add_argument("--csv", action="store_true", help="print a row per metric as comma-separated values")
    formats.add_argument("--markdown", action="store_true", help="print a row per metric as a Markdown table")
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
    measuring.add_argument(
        "--rows", type=int, default=100, metavar="N", help="use only the first N of its rows (default 100)"
    )
    add_row_flags(measuring)
    measuring.add_argument(
        "--probes",
        type=split_commas,
        default=["text", "divergence", "choice"],
        metavar="PROBE,...",
        help="measures of forgetting; also text:FILE.txt, choice:FILE.jsonl, harness:TASK[@LIMIT] and suites: `mofo "
        "probes` lists all (default text,divergence,choice)",
    )
    measuring.add_argument(
        "--harness-data", type=Path, metavar="FOLDER", help="folder with the rows of harness tasks, instead of the Hub"
    )
    measuring.add_argument(
        "--allow-code-execution", action="store_true", help="run code that the models write, for tasks of programming"
    )
    measuring.add_argument(
        "--save-answers", type=Path, metavar="FOLDER", help="write what the models answered to each question"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure both models and show the results."""
    from mofo.measure.pair import measure_pair
    from mofo.measure.pair_text import pair_csv, pair_legend, pair_markdown, pair_table, pair_verdict, regressions
    from mofo.measure.probe import Options

    with measuring_bars():
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
            options=Options(arguments.harness_data, arguments.allow_code_execution),
            answers=arguments.save_answers,
        )
    if arguments.json:
        print(as_json(results))
    elif arguments.csv or arguments.markdown:
        print((pair_csv if arguments.csv else pair_markdown)(results), end="")
    else:
        show(pair_verdict(results))
        show(pair_table(results))
        for line in [*pair_legend(results), *results.notes]:
            show(line)
    worse = regressions(results, arguments.fail_on)
    if worse:
        print(f"mofo measure: the tuned model got worse on {', '.join(worse)}", file=sys.stderr)
    return REGRESSION if worse else 0

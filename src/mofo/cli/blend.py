"""`mofo blend`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.cli.apply import number
from mofo.cli.measuring_flags import PROBES_HELP, add_measuring_flags, add_pair, measuring_options
from mofo.cli.output import as_json, show
from mofo.cli.recipe_flags import split_commas

if TYPE_CHECKING:
    from mofo.cli.parser import Parser
    from mofo.deltas.share import Share
    from mofo.forgetting import Forgetting

HELP = "Measure the way between a base and a tuned model, and write a model from it"
EXAMPLES = """\
examples:
  mofo blend smollm2-135m tuned --data held-out.jsonl
  mofo blend smollm2-135m tuned --data held-out.jsonl --scale 0.5,0.7,0.9
  mofo blend smollm2-135m tuned --data rows.jsonl --save 0.7 --output milder
  mofo blend adapter --save 0.7 --output milder-adapter
"""

SCALES = [0.2, 0.4, 0.6, 0.8]
PROBES = ["divergence", "text", "choice"]


def add_arguments(parser: Parser) -> None:
    """Add the models and the flags."""
    parser.usage = "mofo blend [BASE] TUNED [--data DATA] [--save X --output FOLDER] [flags]"
    parser.epilog = EXAMPLES
    add_pair(parser)
    parser.add_argument("--json", action="store_true", help="print what was measured, or where the model is, as JSON")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with a model")
    measuring = parser.add_argument_group("measuring")
    measuring.add_argument(
        "--data", metavar="DATA", help="held-out data of the task, for what is learned; without it nothing is measured"
    )
    measuring.add_argument(
        "--scale",
        type=_numbers,
        metavar="X,...",
        help="shares of the change to measure, beside 0 and 1 (default 0.2,0.4,0.6,0.8)",
    )
    measuring.add_argument(
        "--probes", type=split_commas, metavar="PROBE,...", help=f"{PROBES_HELP} (default divergence,text,choice)"
    )
    add_measuring_flags(measuring)
    saving = parser.add_argument_group("saving")
    saving.add_argument("--save", type=number, metavar="X", help="write the model at this share of the change")
    saving.add_argument(
        "--output", type=Path, metavar="FOLDER", help="folder to write it to, with what was measured (mofo report)"
    )
    saving.add_argument("--overwrite", action="store_true", help="replace the model in that folder")


def run(arguments: argparse.Namespace) -> int:
    """Measure the way and show it; write the model."""
    share = _share(arguments)
    record = _measured(arguments)
    if record is not None:
        _show(record, arguments)
    if share is not None:
        _write(share, record, arguments)
    return 0


def _share(arguments: argparse.Namespace) -> Share | None:
    """Return the share of the change that is to be written; None if none is."""
    from mofo.deltas.share import Share
    from mofo.errors import UserError
    from mofo.measure.path import check_scales
    from mofo.models.pairing import base_of

    if not arguments.data:
        unused = [f"--{name}" for name in ("scale", "probes") if getattr(arguments, name) is not None]
        if unused:
            raise UserError(f"{unused[0]} says what to measure, which takes --data, held-out data of the task.")
        if arguments.save is None:
            raise UserError("There is nothing to do: give --data to measure the way, --save to write a model, or both.")
    if (arguments.save is None) != (arguments.output is None):
        raise UserError("--save X and --output FOLDER go together: the share of the change, and where to write it.")
    if arguments.save is None:
        return None
    check_scales([arguments.save])
    base = base_of(arguments.base, arguments.tuned)
    return Share(base, arguments.tuned, arguments.save, arguments.output, overwrite=arguments.overwrite)


def _measured(arguments: argparse.Namespace) -> Forgetting | None:
    """Return what was measured; None without data."""
    from mofo.measure.path import measure_path
    from mofo.measure.progress import bars

    if not arguments.data:
        return None
    scales = SCALES if arguments.scale is None else arguments.scale
    with bars():
        return measure_path(
            arguments.base,
            arguments.tuned,
            [*scales, *([] if arguments.save is None else [arguments.save])],
            probes=PROBES if arguments.probes is None else arguments.probes,
            data=arguments.data,
            **measuring_options(arguments),
        )


def _show(record: Forgetting, arguments: argparse.Namespace) -> None:
    from mofo.report.way import way_legend, way_outcome, way_table

    if arguments.json:
        print(as_json(record))
        return
    show(way_outcome(record))
    show(way_table(record))
    for line in [*way_legend(record), *record.notes]:
        show(line)


def _write(share: Share, record: Forgetting | None, arguments: argparse.Namespace) -> None:
    from mofo.forgetting import FILE_NAME

    written = share.write({} if record is None else {FILE_NAME: as_json(record) + "\n"})
    if not arguments.json:
        show(f"Wrote {written.folder}: the model at {written.scale:g} of the change.")
    elif record is None:
        print(as_json(written))


def _numbers(text: str) -> list[float]:
    return [number(word) for word in split_commas(text)]

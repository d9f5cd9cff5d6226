"""The command line: parses, calls, prints. `mofo COMMAND --help` tells what each command takes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mofo import __version__
from mofo.errors import UserError

if TYPE_CHECKING:
    from mofo.results import Results


def main(argv: list[str] | None = None) -> int:
    """Runs the command that ``argv`` names.

    Returns:
        The exit code: 0 done, 1 failed, 2 the input cannot be used, 130 stopped by Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="mofo",
        description="Fine-tune a language model without it forgetting what it knew.",
        epilog="commands:\n" + "".join(f"  {name:<9} {_first_line(run)}\n" for name, run in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mofo {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=", ".join(COMMANDS))
    command = parser.parse_args(argv[:1]).command
    try:
        return COMMANDS[command](argv[1:])
    except UserError as error:
        print(f"mofo {command}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "mofo").split(".")[0] == "mofo":
            raise
        print(
            f"mofo {command}: the library {error.name} is missing; install the workbench with "
            "pip install 'mofo[train]'.",
            file=sys.stderr,
        )
        return 2
    except RuntimeError as error:
        print(f"mofo {command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"mofo {command}: stopped; the same command goes on where it was.", file=sys.stderr)
        return 130


def sft(argv: list[str]) -> int:
    """Fine-tune with MoFO: the flags, YAML files and launcher of `trl sft`, and --fraction."""
    from mofo.trainers.trl_command import main as sft_main

    return sft_main(argv)


def compare(argv: list[str]) -> int:
    """Fine-tune one base with several methods, measure each, draw the report."""
    parser = _compare_parser("compare", _first_line(compare))
    parser.add_argument("--recipe", metavar="FILE", help="a YAML file with any of these settings; flags win over it")
    arguments = vars(parser.parse_args(argv))
    recipe_file = arguments.pop("recipe")
    return _compare(arguments, recipe_file, default_output="mofo-compare")


def demo(argv: list[str]) -> int:
    """Compare AdamW and MoFO on the embedded model and data, in a few minutes."""
    arguments = vars(_compare_parser("demo", _first_line(demo)).parse_args(argv))
    return _compare(arguments, Path(__file__).parents[1] / "compare" / "demo.yaml", default_output="mofo-demo")


def measure(argv: list[str]) -> int:
    """Measure what one model has learned, forgotten and moved against another."""
    parser = argparse.ArgumentParser(prog="mofo measure", description=_first_line(measure))
    parser.add_argument("--base", required=True, help="the model before: hub id, folder, .gguf file, or smollm2-135m")
    parser.add_argument("--tuned", required=True, help="the model after")
    parser.add_argument("--data", help="held-out data of the task: .jsonl, .json, .csv, .parquet or hub id")
    parser.add_argument("--rows", type=int, default=100, help="number of its rows to use (default 100)")
    parser.add_argument(
        "--probes",
        type=_list,
        default=["text", "divergence", "choice"],
        help="text, divergence, choice, text:FILE.txt, choice:FILE.jsonl; separated by commas",
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="let code that comes with a model run")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args(argv)
    from mofo.measure.pair import measure_pair, pair_table

    results = measure_pair(
        options.base,
        options.tuned,
        probes=options.probes,
        data=options.data,
        rows=options.rows,
        trust_remote_code=options.trust_remote_code,
    )
    _show(results.model_dump() if options.json else pair_table(results))
    return 0


def report(argv: list[str]) -> int:
    """Draw the report of a finished or unfinished comparison again, without a model."""
    parser = argparse.ArgumentParser(prog="mofo report", description=_first_line(report))
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="an output folder of mofo compare")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args(argv)
    from mofo.report import load_results, write_report

    for folder in options.folders:
        page = write_report(folder)
        results = load_results(folder)
        _end(results, page, as_json=options.json)
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "sft": sft,
    "compare": compare,
    "measure": measure,
    "report": report,
    "demo": demo,
}


def _compare_parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with a flag for each field of the recipe; only flags that were given are in its result."""
    from mofo.compare.recipe import Recipe

    parser = argparse.ArgumentParser(prog=f"mofo {name}", description=description)
    parser.add_argument("--output", type=Path, help=f"the folder of the results (default mofo-{name})")
    parser.add_argument("--overwrite", action="store_true", help="replace what the folder holds")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time (default 1)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    hints = typing.get_type_hints(Recipe)
    for field in dataclasses.fields(Recipe):
        _add_flag(parser, field, hints[field.name])
    return parser


def _add_flag(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], hint: Any) -> None:
    flag = f"--{field.name.replace('_', '-')}"
    text = field.metadata["help"]
    if hint is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        return
    many = typing.get_origin(hint) is tuple
    shown = ",".join(map(str, field.default)) if many else field.default
    parser.add_argument(
        flag,
        type=_list if many else str,
        default=argparse.SUPPRESS,
        metavar=_METAVARS.get(_plain(hint), "NAME") + (",..." if many else ""),
        help=text + ("" if shown is None else f" (default {shown})"),
    )


_METAVARS = {int: "N", float: "X"}


def _plain(hint: Any) -> Any:
    """``int`` of ``int | None`` and of ``tuple[int, ...]``."""
    optional = isinstance(hint, types.UnionType) or typing.get_origin(hint) is tuple
    return typing.get_args(hint)[0] if optional else hint


def _list(text: str) -> list[str]:
    return [item for item in text.split(",") if item]


def _compare(arguments: dict[str, Any], recipe_file: str | Path | None, *, default_output: str) -> int:
    from mofo.compare.recipe import make_recipe, read_recipe

    output = arguments.pop("output") or Path(default_output)
    overwrite, jobs, as_json = (arguments.pop(name) for name in ("overwrite", "jobs", "json"))
    recipe = make_recipe((read_recipe(recipe_file) if recipe_file else {}) | arguments)
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}, expected at least 1.")
    from mofo.compare.jobs import compare as run_comparison

    results = run_comparison(recipe, output, overwrite=overwrite, jobs=jobs)
    _end(results, output / "report.html", as_json=as_json)
    return 0


def _end(results: Results, page: Path, *, as_json: bool) -> None:
    from mofo.report import summary_table, verdict

    if as_json:
        print(results.model_dump_json(by_alias=True, indent=1))
        return
    _show(summary_table(results))
    _show(verdict(results))
    _show(f"Report: {page}")


def _show(what: Any) -> None:
    """Prints a table, a sentence, or results as JSON."""
    if isinstance(what, dict):
        print(json.dumps(what, indent=1, ensure_ascii=False))
        return
    from rich.console import Console

    Console(soft_wrap=isinstance(what, str), highlight=False, markup=False).print(what)


def _first_line(function: Callable[[list[str]], int]) -> str:
    return (function.__doc__ or "").splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())

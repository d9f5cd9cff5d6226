"""A flag for each setting of a recipe."""

from __future__ import annotations

import argparse
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mofo.cli.parser import Parser
    from mofo.compare.recipe import Recipe

METAVARS = {
    "model": "MODEL",
    "data": "DATA",
    "held_out": "DATA",
    "methods": "METHOD",
    "reference": "METHOD",
    "probes": "PROBE",
    "end_probes": "PROBE",
    "learned": "PROBE",
    "harness_data": "FOLDER",
    "columns": "NAME=FIELD,...",
}
"""What stands for the value of a text in the help."""

TRL_NAMES = {
    "--output-dir": "--output",
    "--model-name-or-path": "--model",
    "--dataset-name": "--data",
    "--per-device-train-batch-size": "--batch-size",
    "--gradient-accumulation-steps": "--gradient-accumulation",
    "--max-steps": "--steps",
    "--num-train-epochs": "--epochs",
    "--lr-scheduler-type": "--schedule",
    "--seed": "--seeds",
}
"""trl's names for what these flags set, both with dashes; they are accepted too."""


def add_recipe_flags(parser: Parser, defaults: Recipe) -> None:
    """Add a group of flags for each group of a recipe's settings; only flags that are given leave a value.

    Args:
        parser: The parser.
        defaults: The recipe whose values are shown as defaults.
    """
    from mofo.compare.recipe_settings import GROUPS

    for settings in GROUPS:
        heading, _, description = inspect.cleandoc(settings.__doc__ or "").partition("\n\n")
        group = parser.add_argument_group(heading.rstrip(".").lower(), description or None)
        for name, field in settings.model_fields.items():
            if name == "settings":
                _add_method_settings(parser, group, defaults)
            elif name != "tasks":  # a list of mappings: it is written in a file
                _add_flag(group, name, field.annotation, field.description or "", getattr(defaults, name))
    parser.aliases |= TRL_NAMES


def recipe_values(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the values of a recipe that the command line gives."""
    from mofo.compare.recipe import Recipe

    values = {name: value for name, value in vars(arguments).items() if name in Recipe.model_fields}
    return values | ({"settings": dict(values["settings"])} if "settings" in values else {})


def list_parts() -> str:
    """Return the parts of methods with those settings that have no flag, for the end of a help text."""
    from mofo.methods import parts
    from mofo.methods.part import OptimizerPart

    flags = {name for name, _, _ in _settings_with_flags()}
    lines: dict[str, list[str]] = {"optimizers:": [], "extras:": []}
    for part in parts.PARTS:
        fields = part.model_fields.items()
        settings = ", ".join(f"{name}={_text(field.default)}" for name, field in fields if name not in flags)
        heading = "optimizers:" if issubclass(part, OptimizerPart) else "extras:"
        lines[heading].append(textwrap.fill(f"  {part.name:<13} {settings}".rstrip(), 80, subsequent_indent=" " * 16))
    sections = ["\n".join([heading, *rows, ""]) for heading, rows in lines.items()]
    return "\n".join([*sections, "--set changes their settings; `mofo methods NAME` explains one.\n"])


def _add_flag(group: argparse._ArgumentGroup, name: str, annotation: Any, description: str, default: Any) -> None:
    flag = f"--{name.replace('_', '-')}"
    if annotation is bool:
        group.add_argument(
            flag,
            action=argparse.BooleanOptionalAction,
            default=argparse.SUPPRESS,
            help=description + _shown_default("yes" if default else None),
        )
        return
    several = typing.get_origin(annotation) is tuple
    metavar = _metavar(annotation) or METAVARS[name]
    group.add_argument(
        flag,
        type=split_commas if several else str,
        default=argparse.SUPPRESS,
        metavar=f"{metavar},..." if several else metavar,
        help=description + _shown_default(default),
    )


def _add_method_settings(parser: Parser, group: argparse._ArgumentGroup, defaults: Recipe) -> None:
    """Add flags for the settings of methods: some of their own, and `--set` for all."""
    for name, plural, field in _settings_with_flags():
        flag = f"--{plural.replace('_', '-')}"
        group.add_argument(
            flag,
            action="append",
            dest="settings",
            type=partial(_named_values, name),
            default=argparse.SUPPRESS,
            metavar=f"{_metavar(field.annotation) or 'NAME'},...",
            help=(field.description or "") + _shown_default(defaults.settings.get(name, field.default)),
        )
        parser.aliases[f"--{name.replace('_', '-')}"] = flag
    group.add_argument(
        "--set",
        action="append",
        dest="settings",
        type=_assignment,
        default=argparse.SUPPRESS,
        metavar="NAME=V,...",
        help="set NAME of every part that has it, or PART.NAME of one; may be repeated",
    )


def _settings_with_flags() -> Iterator[tuple[str, str, Any]]:
    """Yield name, flag and field of the settings that have a flag of their own.

    These are the settings of every optimizer, and those of one optimizer that its runs are named after. The latter
    are made to be varied, so their flags are plurals.
    """
    from mofo.methods import parts
    from mofo.methods.part import OptimizerPart, note_of

    seen = set()
    for part in parts.PARTS:
        for name, field in part.model_fields.items() if issubclass(part, OptimizerPart) else ():
            note = note_of(part, name)
            varied = note.in_name
            if name not in seen and (varied or note.flag or name in OptimizerPart.model_fields):
                seen.add(name)
                yield name, f"{name}s" if varied else name, field


def split_commas(text: str) -> list[str]:
    """Return the values of a flag that takes several."""
    return [item for item in text.split(",") if item]


def _named_values(name: str, text: str) -> tuple[str, list[Any]]:
    return name, [_value(item) for item in split_commas(text)]


def _assignment(text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE, such as score=random")
    return _named_values(name, values)


def _value(text: str) -> Any:
    """Return a value as a recipe file would have it: a number, true, false or a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _metavar(annotation: Any) -> str | None:
    """Return what stands for a value in the help: N, X or the choices; None for texts."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return "{" + ",".join(arguments) + "}"
    if origin in (tuple, types.UnionType, typing.Union, typing.Annotated):
        return _metavar(arguments[0])
    return {int: "N", float: "X"}.get(annotation)


def _shown_default(value: Any) -> str:
    return "" if value is None or value == {} else f" (default {_text(value)})"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)

"""Flags that say how rows are read and made into tokens, for the commands that have no recipe."""

from __future__ import annotations

import argparse


def add_row_flags(group: argparse._ArgumentGroup) -> None:
    """Add `--columns`, `--turns` and `--max-length`."""
    group.add_argument(
        "--columns",
        type=_columns,
        default={},
        metavar="NAME=FIELD,...",
        help="names of the data's fields, where they are others: question=Prompt,answer=Reply",
    )
    group.add_argument(
        "--turns", choices=("all", "last"), default="all", help="turns of the assistant that count (default all)"
    )
    group.add_argument(
        "--max-length", type=_length, default=1024, metavar="N", help="truncate rows to N tokens (default 1024)"
    )


def _columns(words: str) -> dict[str, str]:
    from mofo.data.forms import parse_columns

    try:
        return parse_columns(words)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _length(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 2")
    return int(text)

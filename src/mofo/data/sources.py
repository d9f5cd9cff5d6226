"""Where rows come from: files of every usual kind, folders of them, and data sets of the Hub.

`datasets` finds the files of a folder and their splits, reads Parquet and Arrow, and fetches from the Hub. It does not
read JSON and CSV here, because it guesses types from values: a text that looks like a date becomes a date, 007 becomes
7, keys that some rows lack become null, and nothing switches that off without naming every column first. Python's own
`json` and `csv` keep what was written, and name the line that is broken.
"""

from __future__ import annotations

import bz2
import csv
import glob
import gzip
import io
import json
import lzma
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, TextIO, cast

from mofo.errors import UserError, first_line
from mofo.models.hub import ask_only_if_reachable
from mofo.models.quiet import silence_datasets

KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
"""Data files by the ending of their name."""

LONGEST_CELL = 2**31 - 1
"""Characters of a cell of a CSV file; the most that Python's reader takes on every platform."""


COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
"""Endings of compressed JSON and CSV files."""


class Decimal(float):
    """A number of a JSON file that is shown as it was written there: 2.50 stays 2.50."""

    def __new__(cls, written: str) -> Decimal:
        """Return the number that is written so."""
        number = super().__new__(cls, written)
        number.written = written
        return number

    written: str

    def __str__(self) -> str:
        return self.written


def read_source(spec: str, split: str, *, whole: bool = True) -> Iterator[Any]:
    """Yield the rows of a source as they were written, reading no more of it than is asked for.

    Args:
        spec: A file, a folder, a pattern such as `data/*.jsonl`, or a hub id, with `:CONFIG` where it has several.
        split: The split of a hub data set; also that of a folder that has several.
        whole: Whether all rows will be read, so that a hub data set is best fetched as a whole and kept.

    Raises:
        UserError: The source is missing or cannot be read; the message has the line, where there is one.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        yield from _read_folder(path, split)
    elif path.is_file():
        yield from read_file(path)
    elif glob.has_magic(spec):
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
        if not files:
            raise UserError(f"No data file matches {spec}.")
        for file in files:
            yield from read_file(file)
    elif is_file_name(path) or spec.startswith((".", "/", "~")):
        raise UserError(f"The data file {path} does not exist.")
    else:
        yield from _read_hub(spec, split, whole=whole)


def is_local(spec: str) -> bool:
    """Return whether a source is a file, a folder or a pattern of files, whether it exists or not."""
    path = Path(spec).expanduser()
    return path.exists() or is_file_name(path) or glob.has_magic(spec)


def is_file_name(path: Path) -> bool:
    """Return whether a path has the ending of a data file, in capital letters or not, compressed or not."""
    return _kind(path) is not None


def read_file(path: Path) -> Iterator[Any]:
    """Yield the rows of one file."""
    kind = _kind(path)
    if kind is None:
        known = f"{', '.join(KINDS)}, compressed or not ({', '.join(COMPRESSIONS)})"
        raise UserError(f"{path} is not a data file: expected one of {known}.")
    try:
        if kind in ("parquet", "arrow"):
            yield from _read_tables(path, kind)
            return
        with _open_text(path) as stream:
            if kind == "csv":
                yield from _read_csv(stream, path)
            elif kind == "jsonl":
                yield from _read_json_lines(stream, path)
            else:
                yield from _read_json(stream.read(), path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read as {kind}: it is not UTF-8 ({error}); save it as UTF-8.") from error
    except (ValueError, OSError, EOFError, csv.Error, lzma.LZMAError) as error:  # JSON and Arrow errors are ValueErrors
        raise UserError(f"{path} cannot be read as {kind}: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path} cannot be read as {kind}: it is nested too deeply.") from error


def _kind(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] and suffixes[-1] in COMPRESSIONS:
        kind = KINDS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return kind if kind in ("jsonl", "json", "csv") else None
    return KINDS.get(suffixes[-1]) if suffixes else None


def _open_text(path: Path) -> TextIO:
    """Open a file as text, after its byte-order mark if it has one; lines end as they are written."""
    with _open(path) as stream:
        start = stream.read(2)
    encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return io.TextIOWrapper(_open(path), encoding=encoding, newline="")


def _open(path: Path) -> IO[bytes]:
    """Open a file, compressed or not."""
    match path.suffix.lower():
        case ".gz":
            return cast("IO[bytes]", gzip.open(path))
        case ".bz2":
            return cast("IO[bytes]", bz2.open(path))
        case ".xz":
            return cast("IO[bytes]", lzma.open(path))
        case ".zst":
            import pyarrow  # Python itself reads this only from 3.14 on

            return cast("IO[bytes]", pyarrow.input_stream(str(path), compression="zstd"))
        case _:
            return path.open("rb")


def _parse(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def _read_json_lines(stream: TextIO, path: Path) -> Iterator[Any]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
        except ValueError as error:
            if number == 1 and line.lstrip().startswith("["):  # a list over several lines
                yield from _read_json(line + stream.read(), path)
                return
            raise UserError(f"{path}, line {number} is not JSON: {error}") from error
        if isinstance(row, list) and all(isinstance(item, dict) for item in row):
            yield from row
        else:
            yield row


def _read_json(text: str, path: Path) -> list[Any]:
    """Return the rows of a JSON document: a list, a list under one key, or one object after the other."""
    decoder = json.JSONDecoder(parse_float=Decimal)
    values: list[Any] = []
    position = len(text) - len(text.lstrip())
    while position < len(text):
        value, position = decoder.raw_decode(text, position)
        values.append(value)
        position += len(text[position:]) - len(text[position:].lstrip())
    if len(values) != 1:
        return values
    (value,) = values
    if isinstance(value, list):
        return value
    lists = [rows for rows in value.values() if _is_table(rows)] if isinstance(value, dict) else []
    if len(lists) != 1:
        kind = f"object with the keys {', '.join(value)}" if isinstance(value, dict) else type(value).__name__
        raise UserError(f"{path} holds one {kind}, expected a list of rows, alone or under one key.")
    return cast("list[Any]", lists[0])


def _is_table(value: Any) -> bool:
    """Return whether a value is a list of rows, and not one of the turns of a single conversation."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(row, dict) and not row.keys() & {"role", "from"} for row in value)
    )


def _read_csv(stream: TextIO, path: Path) -> Iterator[dict[str, str | None]]:
    csv.field_size_limit(LONGEST_CELL)
    first = stream.readline()
    # strict: a quotation mark in the wrong place is an error, and does not swallow the rows after it
    reader = csv.reader(_chain(first, stream), delimiter=_separator(first), strict=True)
    header: list[str] = next(reader, [])
    if len(set(header)) < len(header):
        twice = max(header, key=header.count)
        raise UserError(f"{path} has two columns of the name {twice!r}: rename one.")
    for cells in reader:
        if not cells:
            continue
        if len(cells) > len(header):
            raise UserError(
                f"{path}, line {reader.line_num} has {len(cells)} cells, expected {len(header)}: put quotation marks "
                "around a text that has commas."
            )
        yield dict(zip_longest(header, cells))


def _separator(head: str) -> str:
    """Return what separates the cells of a head: a tab if it has one, else the more frequent of comma and semicolon."""
    unquoted = re.sub('"[^"]*"', "", head)
    return "\t" if "\t" in unquoted else max(",;", key=unquoted.count)


def _chain(first: str, stream: TextIO) -> Iterator[str]:
    yield first
    yield from stream


def _read_tables(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    silence_datasets()
    try:
        yield from without_filled_nulls(load_dataset(kind, data_files=[str(path)], split="train", streaming=True))
    except (DatasetGenerationError, TypeError, NotImplementedError, KeyError) as error:
        raise UserError(f"{path} cannot be read as {kind}: {first_line(error)}") from error


def without_filled_nulls(rows: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a data set without the nulls that a table puts where an object lacks a key that others have.

    A column of `datasets.Json` keeps its objects as they were, so nothing is taken from it.
    """
    features: dict[str, Any] = rows.features or {}
    filled = {name for name in features if "Json(" not in repr(features[name])}
    for row in rows:
        yield {name: _without_nulls(value) if name in filled else value for name, value in row.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _read_folder(folder: Path, split: str) -> Iterator[Any]:
    """Yield the rows of a folder: one that `save_to_disk` wrote, or data files, of which `datasets` knows the splits.

    A folder with one split has it under every name.
    """
    from datasets import load_from_disk
    from datasets.data_files import DataFilesList, EmptyDatasetError, get_data_patterns

    silence_datasets()
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        try:
            saved = load_from_disk(str(folder))
        except Exception as error:  # as for the Hub
            raise UserError(f"The folder {folder} cannot be read: {first_line(error)}") from error
        yield from without_filled_nulls(_split_of(saved, split, str(folder)) if isinstance(saved, dict) else saved)
        return
    try:
        patterns = get_data_patterns(str(folder))
    except EmptyDatasetError:
        patterns = {}
    found = {
        name: [file for file in DataFilesList.from_patterns(chosen, str(folder)) if is_file_name(Path(file))]
        for name, chosen in patterns.items()
    }
    splits = {str(name): sorted(dict.fromkeys(files)) for name, files in found.items() if files}
    if not splits:
        raise UserError(f"The folder {folder} has no data file: expected {', '.join(KINDS)}, compressed or not.")
    for file in _split_of(splits, split, str(folder)):
        yield from read_file(Path(file))


def _split_of(splits: dict[str, Any], split: str, where: str) -> Any:
    if len(splits) == 1:
        return next(iter(splits.values()))
    if split not in splits:
        raise UserError(f"{where} has no split {split!r}, only {', '.join(splits)}: give one of its files.")
    return splits[split]


def _read_hub(spec: str, split: str, *, whole: bool) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    silence_datasets()
    name, _, config = spec.partition(":")
    answers = ask_only_if_reachable()
    try:
        rows = load_dataset(name, config or None, split=split, streaming=answers and not whole)
        yield from without_filled_nulls(rows)
    except Exception as error:  # datasets raises many kinds; all of them mean that there is nothing to read
        reason = first_line(error) if answers else "it does not answer, and the data were not fetched before"
        raise UserError(
            f"The data {spec} (split {split}) are not a file and could not be fetched from the Hub ({reason}): check "
            "the name and the network."
        ) from error

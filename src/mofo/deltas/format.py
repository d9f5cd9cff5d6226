"""The file of a delta: a safetensors file of bytes, with a manifest that says what they are.

It holds, as one-dimensional tensors of bytes, `weights/NAME` with the pieces of a tensor, `base/FILE` and `tuned/FILE`
with files beside the weights that the two models do not have in common, and `manifest`. What a reader wants to know of
it without mofo is in the metadata: `safetensors.safe_open(FILE, "np").metadata()`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import Field, ValidationError, field_validator

from mofo.deltas.bits import compress, decompress
from mofo.deltas.pieces import Coded, Piece
from mofo.deltas.stored import Entry, TensorFile, entries_of
from mofo.errors import UserError, first_line, first_problem
from mofo.results import Record

FORMAT = "mofo-delta"
VERSION = "1"
MANIFEST = "manifest"


class SmallFile(Record):
    """A file beside the weights. Its beginning and its end may be those of the other model's file of that name."""

    sha256: str = Field(description="SHA-256 of the whole file")
    prefix: int = Field(default=0, ge=0, description="bytes at the beginning that are the other file's")
    suffix: int = Field(default=0, ge=0, description="bytes at the end that are the other file's")
    size: int = Field(ge=0, description="bytes between, before compression")


class Side(Record):
    """The base or the tuned model."""

    hash: str = Field(description="SHA-256 of names, types, shapes and contents of its tensors")
    headers: dict[str, str] = Field(description="headers of its safetensors files by name, to write the same files")
    digests: dict[str, str] = Field(description="SHA-256 of the contents of each tensor")
    files: dict[str, SmallFile] = Field(description="files beside the weights by name")

    @field_validator("headers", "files")
    @classmethod
    def _check_names(cls, files: dict[str, object]) -> dict[str, object]:
        """Refuse names that lead out of a folder."""
        for name in files:
            if Path(name).name != name or name in ("", ".", "..") or "\\" in name:
                raise ValueError(f"{name!r} is no name of a file")
        return files

    @property
    def entries(self) -> dict[str, Entry]:
        """The tensors by name."""
        return {name: entry for header in self.headers.values() for name, entry in entries_of(header).items()}


class Lossy(Record):
    """What rounding has changed."""

    bits: Literal[8] = Field(description="bits of each change")
    relative_error: float = Field(description="‖restored − tuned‖ / ‖tuned − base‖, L2")
    largest_error: float = Field(description="largest |restored − tuned| of an entry")


class Manifest(Record):
    """What a delta is."""

    kind: Literal["weights", "adapter"] = Field(
        description="`weights` leads from one to the other and back; `adapter` holds an adapter, which leaves the "
        "base as it is"
    )
    base: Side = Field(description="the base")
    tuned: Side = Field(description="the model that the delta leads to")
    pieces: dict[str, list[Piece]] = Field(description="the pieces of each tensor")
    lossy: Lossy | None = Field(default=None, description="what rounding has changed; `null` if the delta is exact")


class DeltaWriter:
    """Writes a delta in one pass, with room at the beginning for the header, which is known last.

    Args:
        file: A new file.
        names: Names of all tensors that will be added; some may be left out.
    """

    def __init__(self, file: BinaryIO, names: Sequence[str]) -> None:
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}
        largest = dict.fromkeys([*names, MANIFEST], (10**17, 2 * 10**17))
        self._room = len(_header(largest, _metadata("0" * 64, "0" * 64, exact=False, size=10**18)))
        self._room += -self._room % 8
        file.write(bytes(8 + self._room))
        self._end = 0

    def add(self, name: str, parts: Iterator[bytes]) -> None:
        """Write a tensor of bytes."""
        start = self._end
        for part in parts:
            self._file.write(part)
            self._end += len(part)
        self._places[name] = (start, self._end)

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest and the header."""
        content = manifest.model_dump_json(exclude_defaults=True).encode()
        self.add(MANIFEST, iter([compress(content)]))
        metadata = _metadata(manifest.base.hash, manifest.tuned.hash, exact=manifest.lossy is None, size=len(content))
        self._file.seek(0)
        self._file.write(self._room.to_bytes(8, "little") + _header(self._places, metadata).ljust(self._room))


class DeltaFile(AbstractContextManager["DeltaFile"]):
    """A delta that is read in pieces.

    Args:
        path: The file.

    Attributes:
        manifest: What it is.

    Raises:
        UserError: The file is missing, damaged or no delta.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as opened:
            self._file = opened.enter_context(TensorFile(path))
            if self._file.metadata.get("format") != FORMAT:
                raise UserError(f"{path} is no delta: give a file that `mofo diff` wrote.")
            if self._file.metadata.get("version") != VERSION:
                raise UserError(f"{path} is a delta of another version of mofo: make it again with this one.")
            try:
                self.manifest = Manifest.model_validate_json(self._read(MANIFEST, int(self._file.metadata["size"])))
                self._sides = (self.manifest.base.entries, self.manifest.tuned.entries)
            except ValidationError as error:
                raise self.damaged(first_problem(error)) from error
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise self.damaged(first_line(error)) from error
            self._opened = opened.pop_all()

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def damaged(self, why: str) -> UserError:
        """Return the error that says that the delta is damaged."""
        return UserError(f"The delta {self.path} is damaged ({why}): get it again.")

    def dtypes(self, name: str) -> tuple[str | None, str | None]:
        """Return the data types of a tensor in the base and in the tuned model; None where it does not exist."""
        base, tuned = (side[name].dtype if name in side else None for side in self._sides)
        return base, tuned

    def entry(self, name: str, *, tuned: bool) -> Entry | None:
        """Return where a tensor lies in one of the models; None if it does not exist there."""
        return self._sides[tuned].get(name)

    def pieces(self, name: str) -> Iterator[Coded]:
        """Yield the pieces of a tensor.

        Raises:
            ValueError: They do not fit the file.
        """
        stored, first = f"weights/{name}", 0
        for piece in self.manifest.pieces.get(name, []):
            if any(piece.parts) and stored not in self._file.entries:
                raise ValueError(f"{name} is missing")
            parts = []
            for length in piece.parts:
                parts.append(self._file.read(stored, first, length) if length else b"")
                if len(parts[-1]) != length:
                    raise ValueError(f"the pieces of {name} are cut off")
                first += length
            yield Coded(piece, (parts[0], parts[1]))

    def small_file(self, name: str, *, tuned: bool) -> bytes:
        """Return the stored middle of a file beside the weights.

        Raises:
            ValueError: It is damaged.
        """
        side = self.manifest.tuned if tuned else self.manifest.base
        return self._read(f"{'tuned' if tuned else 'base'}/{name}", side.files[name].size)

    def _read(self, name: str, size: int) -> bytes:
        entry = self._file.entries.get(name)
        if entry is None:
            raise ValueError(f"{name} is missing")
        return decompress(self._file.read(name, 0, entry.size), size)


def _header(places: dict[str, tuple[int, int]], metadata: dict[str, str]) -> bytes:
    described: dict[str, object] = {"__metadata__": metadata}
    for name, (start, end) in places.items():
        described[name] = {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
    return json.dumps(described, separators=(",", ":")).encode()


def _metadata(base: str, tuned: str, *, exact: bool, size: int) -> dict[str, str]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "base_sha256": base,
        "tuned_sha256": tuned,
        "exact": str(exact).lower(),
        "size": str(size),
    }

"""A model as it is stored: safetensors files, read in pieces, and the small files beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mofo.errors import UserError, first_line
from mofo.models.files import SMALL_FILES, WEIGHTS, safetensors_files

PIECE = 1 << 19
"""Entries of a tensor that are read, coded and written at once: memory does not depend on the size of the model."""

WIDTHS = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
"""Bytes of an entry by the data type's name in safetensors; all others are taken byte by byte."""

NOT_OF_THE_MODEL = ("trainer_state.json", "forgetting.json", "results.json")


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies in its file.

    Attributes:
        dtype: Data type by its name in safetensors, such as `BF16`.
        shape: Shape.
        start: First byte in the file.
        size: Number of bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def width(self) -> int:
        """Bytes of an entry; 1 for types that are taken byte by byte."""
        return WIDTHS.get(self.dtype, 1)

    @property
    def count(self) -> int:
        """Number of entries."""
        return self.size // self.width


def entries_of(header: str) -> dict[str, Entry]:
    """Return the tensors that the header of a safetensors file describes, in the order of their bytes.

    Args:
        header: The JSON text between the file's first eight bytes and its tensors.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: The text is not such a header.
    """
    first = 8 + len(header.encode())
    entries = {}
    for name, tensor in json.loads(header).items():
        if name != "__metadata__":
            start, end = tensor["data_offsets"]
            entries[name] = Entry(tensor["dtype"], tuple(tensor["shape"]), first + start, end - start)
    return dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].size)))


class TensorFile(AbstractContextManager["TensorFile"]):
    """A safetensors file whose tensors are read in pieces.

    `safetensors` checks the file; the bytes are read by their places, because it maps a file into memory whole, where
    all that was ever read stays resident.

    Args:
        path: The file.

    Attributes:
        header: The JSON text that describes the tensors, as it is.
        entries: Tensors by name, in the order of their bytes.
        metadata: What else the file says of itself.

    Raises:
        UserError: The file is missing, truncated or no safetensors file.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        try:
            with safe_open(path, framework="np") as checked:
                self.metadata: dict[str, str] = checked.metadata() or {}
            self._file: BinaryIO = path.open("rb")
            self.header = self._file.read(int.from_bytes(self._file.read(8), "little")).decode()
            self.entries = entries_of(self.header)
        except FileNotFoundError as error:
            raise UserError(f"There is no file {path}.") from error
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{path} is no safetensors file, or is damaged or cut off ({first_line(error)}): get it again."
            ) from error

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, name: str, first: int, count: int) -> bytes:
        """Return `count` bytes of a tensor from byte `first` on, or as many as it has."""
        entry = self.entries[name]
        self._file.seek(entry.start + first)
        return self._file.read(min(count, max(0, entry.size - first)))

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a tensor, `PIECE` entries at once."""
        entry = self.entries[name]
        for first in range(0, entry.count, PIECE):
            yield self.read(name, first * entry.width, PIECE * entry.width)


class StoredModel(AbstractContextManager["StoredModel"]):
    """The files of a model or of an adapter in a folder.

    Args:
        folder: The folder.

    Attributes:
        files: Its safetensors files by name.
        entries: All tensors by name.

    Raises:
        UserError: The folder has no safetensors weights, or not all of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        paths = safetensors_files(folder)
        if not paths:
            raise UserError(
                f"{folder} has no weights as safetensors ({WEIGHTS}): load the model and save it with save_pretrained."
            )
        with ExitStack() as opened:
            self.files = {path.name: opened.enter_context(TensorFile(path)) for path in paths}
            self._holder = {name: file for file in self.files.values() for name in file.entries}
            self.entries = {name: file.entries[name] for name, file in self._holder.items()}
            if len(self.entries) < sum(len(file.entries) for file in self.files.values()):
                raise UserError(f"{folder} has a tensor in two of its files: save the model again.")
            self._opened = opened.pop_all()

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def size(self) -> int:
        """Bytes of the tensors."""
        return sum(entry.size for entry in self.entries.values())

    def piece(self, name: str, number: int) -> bytes:
        """Return the bytes of a tensor's piece; none after its end, or if there is no such tensor."""
        if name not in self.entries:
            return b""
        width = self.entries[name].width
        return self._holder[name].read(name, number * PIECE * width, PIECE * width)

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a tensor's bytes in hexadecimal."""
        digest = hashlib.sha256()
        for piece in self._holder[name].pieces(name):
            digest.update(piece)
        return digest.hexdigest()

    def small_files(self) -> dict[str, Path]:
        """Return the files that belong to the model beside its weights, by name."""
        found = {path.name: path for pattern in SMALL_FILES for path in sorted(self.folder.glob(pattern))}
        return {name: path for name, path in sorted(found.items()) if name not in NOT_OF_THE_MODEL}


def model_hash(entries: Mapping[str, Entry], digests: Mapping[str, str]) -> str:
    """Return the SHA-256 that stands for a model's weights, however they are spread over files.

    Args:
        entries: The tensors.
        digests: The SHA-256 of the bytes of each.
    """
    lines = (f"{name} {entries[name].dtype} {list(entries[name].shape)} {digests[name]}\n" for name in sorted(entries))
    return hashlib.sha256("".join(lines).encode()).hexdigest()

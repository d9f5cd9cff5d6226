"""`mofo diff`: the change from a base to a tuned model as a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from mofo.deltas import small
from mofo.deltas.bits import compress
from mofo.deltas.format import FORMAT, DeltaWriter, Lossy, Manifest, Side, SmallFile
from mofo.deltas.pieces import Coded, Piece, encode, encode_rounded, one_thread
from mofo.deltas.quantised import Rounding
from mofo.deltas.stored import PIECE, StoredModel, TensorFile, model_hash
from mofo.errors import UserError
from mofo.files import new_file
from mofo.models.adapter import is_adapter
from mofo.models.load import local_folder
from mofo.results import Record


class Summary(Record):
    """What a delta holds, and how large it is."""

    file: str = Field(description="path of the delta")
    kind: Literal["weights", "adapter"] = Field(description="whether it is a change of weights or an adapter")
    bytes: int = Field(description="size of the file")
    tuned_bytes: int = Field(description="size of the tuned model's weights")
    entries: int = Field(description="entries of the tuned model's weights")
    moved: int = Field(description="entries that differ from the base's")
    base_sha256: str = Field(description="hash of the base's weights")
    tuned_sha256: str = Field(description="hash of the weights that the delta leads to")
    lossy: Lossy | None = Field(default=None, description="what rounding has changed; `null` if the delta is exact")


def make_delta(base: str, tuned: str, target: Path, *, bits: Literal[8] | None = None) -> Summary:
    """Write the change from a base to a tuned model into a file.

    One piece of a tensor of each model is in memory at a time.

    Args:
        base: The model before, as for `mofo.models.load.local_folder`.
        tuned: The model after, or an adapter of the base.
        target: The file to write, `.safetensors`.
        bits: 8 rounds each change to 8 bits; by default it is kept to the bit.

    Raises:
        UserError: A model has no safetensors weights, the two have no tensor in common, or the file cannot be written.
            Nothing is written then.
    """
    _check_target(target)
    folders = local_folder(base), local_folder(tuned)
    kind: Literal["weights", "adapter"] = "weights"
    if is_adapter(folders[1]) and not is_adapter(folders[0]):
        kind = "adapter"
    with StoredModel(folders[0]) as before, StoredModel(folders[1]) as after:
        if kind == "weights" and not before.entries.keys() & after.entries.keys():
            raise UserError(f"{base} and {tuned} have no tensor in common: give a base and a model tuned from it.")
        try:
            with new_file(target) as file, one_thread():
                maker = _Maker(before, after, kind, bits)
                manifest = maker.write(DeltaWriter(file, maker.names))
        except OSError as error:
            raise UserError(f"{target} cannot be written: {error.strerror}.") from error
    return Summary(
        file=str(target),
        kind=kind,
        bytes=target.stat().st_size,
        tuned_bytes=after.size,
        entries=sum(entry.count for entry in after.entries.values()),
        moved=sum(piece.moved for pieces in manifest.pieces.values() for piece in pieces),
        base_sha256=manifest.base.hash,
        tuned_sha256=manifest.tuned.hash,
        lossy=manifest.lossy,
    )


class _Maker:
    """Makes the parts of a delta one after another.

    Args:
        before: The base.
        after: The tuned model.
        kind: Whether the tuned model is an adapter of the base.
        bits: Bits of a change; None for all of them.

    Attributes:
        names: Names of the tensors that the delta may have.
    """

    def __init__(
        self, before: StoredModel, after: StoredModel, kind: Literal["weights", "adapter"], bits: Literal[8] | None
    ) -> None:
        self._before, self._after, self._kind, self._bits = before, after, kind, bits
        self._sources = {} if kind == "adapter" else before.entries
        self._tensors = list(dict.fromkeys([*after.entries, *self._sources]))
        self._files = ({} if kind == "adapter" else before.small_files(), after.small_files())
        self.names = [f"weights/{name}" for name in self._tensors]
        self.names += [
            f"{side}/{name}" for side, files in zip(("base", "tuned"), self._files, strict=True) for name in files
        ]
        self._pieces: dict[str, list[Piece]] = {}
        self._digests: tuple[dict[str, str], dict[str, str]] = ({}, {})
        self._rounding = Rounding()

    def write(self, writer: DeltaWriter) -> Manifest:
        """Write all parts and return what they are."""
        for name in self._tensors:
            writer.add(f"weights/{name}", self._tensor(name))
        if self._kind == "adapter":
            self._digests[0].update({name: self._before.digest(name) for name in self._before.entries})
        sides = []
        for number, (model, side) in enumerate(((self._before, "base"), (self._after, "tuned"))):
            kept = {}
            for name, path in self._files[number].items():
                other = (self._after if number == 0 else self._before).folder / name
                kept[name], middle = small.compare(path, other if other.is_file() else None)
                writer.add(f"{side}/{name}", iter([compress(middle)]))
            sides.append(self._side(model, self._digests[number], kept))
        if self._kind == "adapter":
            sides[0] = sides[0].model_copy(update={"headers": {}, "digests": {}})
        manifest = Manifest(
            kind=self._kind,
            base=sides[0],
            tuned=sides[1],
            pieces={name: pieces for name, pieces in self._pieces.items() if pieces},
            lossy=self._lossy(),
        )
        writer.finish(manifest)
        return manifest

    def _tensor(self, name: str) -> Iterator[bytes]:
        """Yield the parts of a tensor's pieces; note the pieces and the digests of both versions."""
        old, new = self._sources.get(name), self._after.entries.get(name)
        dtypes = (old.dtype if old else None, new.dtype if new else None)
        digests = hashlib.sha256(), hashlib.sha256()
        self._pieces[name] = []
        for number in range(-(-max(entry.count for entry in (old, new) if entry) // PIECE)):
            base = self._before.piece(name, number) if old else b""
            tuned = self._after.piece(name, number)
            coded, result = self._encode(base, tuned, dtypes)
            digests[0].update(base)
            digests[1].update(result)
            self._pieces[name].append(coded.piece)
            yield from coded.parts
        for found, entry, digest in zip(self._digests, (old, new), digests, strict=True):
            if entry:
                found[name] = digest.hexdigest()

    def _encode(self, base: bytes, tuned: bytes, dtypes: tuple[str | None, str | None]) -> tuple[Coded, bytes]:
        """Return a coded piece and the bytes that it leads to."""
        if self._bits is None:
            return encode(base, tuned, dtypes), tuned
        coded, result, rounding = encode_rounded(base, tuned, dtypes)
        self._rounding.add(rounding)
        return coded, result

    def _lossy(self) -> Lossy | None:
        """Return what rounding has changed; None if nothing was rounded."""
        pieces = (piece for pieces in self._pieces.values() for piece in pieces)
        if self._bits is None or all(piece.how != "quantised" for piece in pieces):
            return None
        return Lossy(bits=self._bits, relative_error=self._rounding.relative, largest_error=self._rounding.largest)

    def _side(self, model: StoredModel, digests: dict[str, str], files: dict[str, SmallFile]) -> Side:
        headers = {name: file.header for name, file in model.files.items()}
        return Side(hash=model_hash(model.entries, digests), headers=headers, digests=digests, files=files)


def _check_target(target: Path) -> None:
    """Refuse a place that is no safetensors file in a folder that exists, or that holds something else than a delta."""
    if target.suffix != ".safetensors":
        raise UserError(f"The delta is to be written to {target}: expected a name that ends in .safetensors.")
    if not target.parent.is_dir():
        raise UserError(f"The folder {target.parent} does not exist: make it first.")
    if target.exists():
        try:
            with TensorFile(target) as present:
                is_delta = present.metadata.get("format") == FORMAT
        except UserError:
            is_delta = False
        if not is_delta:
            raise UserError(f"{target} exists and is no delta: give another name.")


def description(summary: Summary) -> list[str]:
    """Return what a delta is, a sentence each."""
    size, whole = (f"{amount / 1e6:,.1f} MB" for amount in (summary.bytes, summary.tuned_bytes))
    share = summary.bytes / summary.tuned_bytes
    if summary.kind == "adapter":
        return [
            f"Wrote {summary.file}: the adapter and its files in {size} (its weights: {whole}), bound to its base.",
            "mofo apply restores the adapter to the bit.",
        ]
    lines = [
        f"Wrote {summary.file}: {size}, {share:.1%} of the tuned model's {whole}; "
        f"{summary.moved / summary.entries:.1%} of its entries moved."
    ]
    if summary.lossy is None:
        lines.append("It is exact: mofo apply restores the tuned model, mofo undo the base, to the bit.")
    else:
        lines.append(
            f"Its changes are rounded to {summary.lossy.bits} bits: it loses {summary.lossy.relative_error:.2%} of the "
            f"change (L2), {summary.lossy.largest_error:.1e} in the worst entry, and does not lead back to the base."
        )
    return lines

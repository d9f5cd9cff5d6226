"""`mofo apply` and `mofo undo`: from one end of a delta to the other, to the bit."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from mofo.deltas import small
from mofo.deltas.blending import blended
from mofo.deltas.format import DeltaFile, Side
from mofo.deltas.pieces import Coded, decode, one_thread
from mofo.deltas.stored import PIECE, Entry, StoredModel, entries_of, model_hash
from mofo.errors import UserError, first_line
from mofo.files import new_folder
from mofo.models.adapter import CONFIG, scaled_config
from mofo.models.load import local_folder
from mofo.results import Record


class Restored(Record):
    """A model that was written."""

    folder: str = Field(description="where it lies")
    bytes: int = Field(description="size of its weights")
    sha256: str | None = Field(description="hash of its weights, as the last delta has it; `null` if it was scaled")


class Step(NamedTuple):
    """A delta in one direction."""

    delta: DeltaFile
    forward: bool

    @property
    def source(self) -> Side:
        """Where it comes from."""
        return self.delta.manifest.base if self.forward else self.delta.manifest.tuned

    @property
    def target(self) -> Side:
        """Where it leads to."""
        return self.delta.manifest.tuned if self.forward else self.delta.manifest.base


def apply_deltas(
    base: str, deltas: Sequence[Path], output: Path, *, scale: float = 1.0, overwrite: bool = False
) -> Restored:
    """Write the tuned model that deltas lead to from a base.

    Args:
        base: The base, as for `mofo.models.load.local_folder`.
        deltas: Files of `make_delta`. Each one's base is the model that the one before leads to.
        output: Folder to write.
        scale: Share c of the whole change: base + c · (tuned − base). With 1 the tuned model's bits are restored and
            checked.
        overwrite: Whether a model in that folder is replaced.

    Raises:
        UserError: The base is another, a delta is damaged or leads from elsewhere, or the folder cannot be written. The
            folder is then as it was before.
    """
    with ExitStack() as opened:
        steps = [Step(opened.enter_context(DeltaFile(delta)), forward=True) for delta in deltas]
        return _restore(base, steps, output, scale=scale, overwrite=overwrite)


def undo_deltas(tuned: str, deltas: Sequence[Path], output: Path, *, overwrite: bool = False) -> Restored:
    """Write the base that deltas have led away from.

    Args:
        tuned: The tuned model, as for `mofo.models.load.local_folder`.
        deltas: Files of `make_delta`, in the order in which they were applied.
        output: Folder to write.
        overwrite: Whether a model in that folder is replaced.

    Raises:
        UserError: As `apply_deltas`; or a delta was rounded or is an adapter.
    """
    with ExitStack() as opened:
        steps = [Step(opened.enter_context(DeltaFile(delta)), forward=False) for delta in reversed(deltas)]
        for delta, _ in steps:
            if delta.manifest.lossy:
                raise UserError(f"{delta.path} was rounded to 8 bits, which does not lead back: keep the base.")
            if delta.manifest.kind == "adapter":
                raise UserError(f"{delta.path} holds an adapter, which leaves its base as it is: use the base.")
        return _restore(tuned, steps, output, scale=1.0, overwrite=overwrite)


def _restore(source: str, steps: Sequence[Step], output: Path, *, scale: float, overwrite: bool) -> Restored:
    if scale != 1 and len(steps) > 1 and any(step.delta.manifest.kind == "adapter" for step in steps):
        raise UserError("--scale does not go with an adapter among several deltas: apply them one by one.")
    for step, following in itertools.pairwise(steps):
        if step.target.hash != following.source.hash:
            raise UserError(
                f"{following.delta.path} does not go on where {step.delta.path} ends: give deltas of one chain, in "
                "the order in which they were made."
            )
    with (
        writable_folder(output, overwrite=overwrite) as folder,
        StoredModel(local_folder(source)) as model,
        one_thread(),
    ):
        target = steps[-1].target
        _check_same_tensors(source, model, steps[0])
        check_room(folder, sum(entry.size for entry in target.entries.values()))
        writer = _Writer(source, model, steps, scale)
        for name, header in target.headers.items():
            writer.write(folder / name, header)
        writer.check_rest()
        _write_small_files(folder, model.folder, steps, scale)
        size = sum((folder / name).stat().st_size for name in target.headers)
    return Restored(folder=str(output), bytes=size, sha256=target.hash if scale == 1 else None)


class _Writer:
    """Writes tensor files from a source through deltas.

    Args:
        spec: The user's name of the source.
        model: The source.
        steps: The deltas in their directions.
        scale: Share of the change.
    """

    def __init__(self, spec: str, model: StoredModel, steps: Sequence[Step], scale: float) -> None:
        self._spec, self._model, self._steps, self._scale = spec, model, steps, scale
        self._checked: dict[str, str] = {}

    def write(self, path: Path, header: str) -> None:
        """Write a file of the target."""
        head = header.encode()
        with path.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for name, entry in entries_of(header).items():
                if file.tell() != entry.start:
                    raise self._steps[-1].delta.damaged(f"{name} does not follow the tensor before")
                for piece in self._tensor(name, entry):
                    file.write(piece)

    def check_rest(self) -> None:
        """Check the tensors of the source that the target does not have, and the hash of the whole."""
        for name in self._model.entries.keys() - self._checked.keys():
            self._checked[name] = self._model.digest(name)
        self._check_source(model_hash(self._model.entries, self._checked) == self._steps[0].source.hash)

    def _tensor(self, name: str, entry: Entry) -> Iterator[bytes]:
        """Yield the pieces of a tensor of the target; check the digests of its source and of what was made."""
        coded = [step.delta.pieces(name) for step in self._steps]
        digests = hashlib.sha256(), hashlib.sha256()
        source = self._model.entries.get(name)
        for number in range(-(-entry.count // PIECE)):
            first = content = self._model.piece(name, number)
            digests[0].update(content)
            for step, pieces in zip(self._steps, coded, strict=True):
                content = self._advance(step, name, number, pieces, content)
            digests[1].update(content)
            if self._scale != 1 and self._steps[-1].delta.manifest.kind == "weights":
                content = blended(name, first, source, content, entry, self._scale)
            yield content
        for number in range(-(-entry.count // PIECE), -(-(source.count if source else 0) // PIECE)):
            digests[0].update(self._model.piece(name, number))
        if source:
            self._checked[name] = digests[0].hexdigest()
            known = self._steps[0].source.digests.get(name)
            self._check_source(known in (None, self._checked[name]))
        last = self._steps[-1]
        if digests[1].hexdigest() != last.target.digests.get(name):
            raise last.delta.damaged(f"{name} does not come out as it was")

    def _advance(self, step: Step, name: str, number: int, pieces: Iterator[Coded], content: bytes) -> bytes:
        """Return a piece of a tensor after a step."""
        entry = step.delta.entry(name, tuned=step.forward)
        size = 0 if entry is None else max(0, min(PIECE, entry.count - number * PIECE)) * entry.width
        try:
            coded = next(pieces, None)
            if coded is None:
                if size:
                    raise ValueError(f"{name} has too few pieces")
                return b""
            return decode(coded, content, step.delta.dtypes(name), size, forward=step.forward)
        except (ValueError, IndexError) as error:
            # A source that is another one may not even have the sizes that are expected.
            self._check_source(self._is_source(name))
            raise step.delta.damaged(first_line(error)) from error

    def _is_source(self, name: str) -> bool:
        known = self._steps[0].source.digests.get(name)
        return known is None or name not in self._model.entries or self._model.digest(name) == known

    def _check_source(self, fits: bool) -> None:
        if not fits:
            raise _another_source(self._spec, self._steps[0])


def _another_source(spec: str, step: Step) -> UserError:
    wanted = "base" if step.forward else "tuned model"
    return UserError(
        f"{spec} is not the {wanted} of {step.delta.path}, whose weights have the hash {step.source.hash[:16]}…: give "
        "that one."
    )


def _check_same_tensors(spec: str, model: StoredModel, step: Step) -> None:
    """Refuse at once a source that has other tensors than the delta's."""
    if step.delta.manifest.kind == "adapter":
        return
    if _described(step.source.entries) != _described(model.entries):
        raise _another_source(spec, step)


def _described(entries: Mapping[str, Entry]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (entry.dtype, entry.shape) for name, entry in entries.items()}


def _write_small_files(folder: Path, source: Path, steps: Sequence[Step], scale: float) -> None:
    """Write the files beside the weights; those between are passed on in folders of their own."""
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        made = folder if last else folder / f".{number}"
        made.mkdir(exist_ok=True)
        for name in step.target.files:
            try:
                content = small.restore(step.delta, name, source, tuned=step.forward)
            except ValueError as error:
                raise step.delta.damaged(str(error)) from error
            if last and name == CONFIG and scale != 1:
                content = scaled_config(content, step.target.entries, scale)
            (made / name).write_bytes(content)
        if number:
            shutil.rmtree(source)
        source = made


@contextmanager
def writable_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a scratch folder that becomes `output`, alone and whole, when the body succeeds.

    Raises:
        UserError: The folder exists and is not to be replaced, holds more than a model, or cannot be written.
    """
    from filelock import FileLock, Timeout

    check_output(output, overwrite=overwrite)
    lock = output.resolve().with_name(f".{output.resolve().name}.lock")
    try:
        with FileLock(lock, timeout=0), new_folder(output) as folder:
            yield folder
        lock.unlink(missing_ok=True)
    except Timeout as error:
        raise UserError(f"Another process is writing {output}: wait for it.") from error
    except OSError as error:
        lock.unlink(missing_ok=True)
        raise UserError(f"{output} cannot be written: {error.strerror or error}.") from error
    except UserError:
        lock.unlink(missing_ok=True)
        raise


def check_room(folder: Path, size: int) -> None:
    """Refuse a disk that has no room for `size` bytes.

    Raises:
        UserError: It has not.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"The disk has {free / 1e9:,.2f} GB free and the model takes {size / 1e9:,.2f} GB: make room, or give "
            "another --output."
        )


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse a folder that a model cannot be written to.

    Raises:
        UserError: Its parent is missing; or it exists and is not to be replaced, or holds more than a model.
    """
    if not output.resolve().parent.is_dir():
        raise UserError(f"The folder {output.resolve().parent} does not exist: make it first.")
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{output} exists: give another --output, or --overwrite to replace the model in it.")
    inside = sorted(output.iterdir()) if output.is_dir() else []
    if not any(path.name in ("config.json", CONFIG) for path in inside) or any(path.is_dir() for path in inside):
        raise UserError(f"{output} holds more than a model, which --overwrite would delete: give another --output.")

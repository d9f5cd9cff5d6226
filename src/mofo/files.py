"""Files and folders that survive a killed process: each holds what it held before, or all of its new content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from mofo.errors import UserError


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write several files into a folder, all or none.

    Every file is first written beside its place under a name of its own; only when all are complete does each replace
    its predecessor.

    Args:
        folder: The folder. Missing folders are created.
        contents: The content of each file by its path relative to `folder`, such as `plots/loss.png`.

    Raises:
        OSError: A file cannot be written. The files are then as they were before.
    """
    staged: dict[Path, Path] = {}
    try:
        for name, content in contents.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            staged[path] = path.with_name(f".{path.name}.{os.getpid()}")
            staged[path].write_bytes(content)
        for path, scratch in staged.items():
            os.replace(scratch, path)
    finally:
        for scratch in staged.values():
            scratch.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    write_files(path.parent, {path.name: content})


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value per line, all of them or none."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def append_jsonl(path: Path, row: Any) -> None:
    """Append one JSON value as a line. A kill may leave half a line, which `read_jsonl` leaves out."""
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> list[Any]:
    """Return the values of a JSON Lines file; none if it is missing. A last line that was cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


@contextmanager
def new_file(target: Path) -> Iterator[BinaryIO]:
    """Yield a file open for writing that becomes `target` if the body succeeds and vanishes if it fails.

    Args:
        target: The file to make or replace. Its folder must exist.
    """
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            yield file
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield an empty scratch folder that becomes `target` if the body succeeds and vanishes if it fails.

    What was at `target` before stays there until then and is gone afterwards. The scratch folder lies beside
    `target` and has a fixed name, so that one that a killed process left is replaced by the next. Therefore only one
    process at a time may make the same folder: callers hold a lock.

    Args:
        target: The folder to make or replace. Its parent must exist.
    """
    target = target.resolve()  # a link stays, the folder it points to is replaced
    scratch, old = (target.with_name(f".{target.name}.{suffix}") for suffix in ("new", "old"))
    shutil.rmtree(scratch, ignore_errors=True)
    if old.exists() and not target.exists():  # killed between the two renames below
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
        if target.exists():
            target.rename(old)
        scratch.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def sole_owner(path: Path) -> Iterator[None]:
    """Hold a lock on a file that is gone afterwards; only what a killed process left stays.

    Args:
        path: The file. Missing folders above it are created.

    Raises:
        TimeoutError: Another process holds it.
        OSError: The file cannot be made.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()  # the lock would take a folder that cannot be written for a lock that is held
    try:
        with FileLock(path, timeout=0):
            if not path.exists():  # its last owner ended between the two
                raise TimeoutError(f"{path} was just given up")
            try:
                yield
            finally:
                with suppress(OSError):  # Windows lets nobody remove an open file
                    path.unlink()
    except Timeout:
        raise TimeoutError(f"{path} is held by another process") from None


@contextmanager
def sole_owner_of(output: Path) -> Iterator[None]:
    """Keep other processes from working on an output folder; the lock lies beside it.

    Raises:
        UserError: Another process works on it, or nothing can be written there.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(sole_owner(output.with_name(f".{output.name}.lock")))
        except TimeoutError:
            raise UserError(
                f"Another process is working on {output}: wait for it, or choose another --output."
            ) from None
        except OSError as error:
            raise UserError(f"{output} cannot be written ({error.strerror}): choose another --output.") from error
        yield


def check_place(folder: Path, flag: str) -> None:
    """Check, without making it, that a folder can be made or written.

    Args:
        folder: The folder.
        flag: The flag that names it, for the message.

    Raises:
        UserError: There is a file at its place or above it, or nothing can be written there.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"{there} is a file: choose another {flag}, a folder that need not exist.")
    try:
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): choose another {flag}.") from None


def check_new_file(file: Path, flag: str) -> None:
    """Check, without making it, that a new file can be written.

    Args:
        file: The file.
        flag: The flag that names it, for the message.

    Raises:
        UserError: There is something at its place, its folder does not exist, or nothing can be written there.
    """
    if file.exists():
        raise UserError(f"{file} exists: give another {flag}, or remove it first.")
    if not file.parent.is_dir():
        raise UserError(f"The folder {file.parent} of {flag} {file} does not exist: make it first.")
    check_place(file.parent, flag)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Return the folder for models and data that were fetched or converted: `MOFO_CACHE`, or the user's cache."""
    import platformdirs

    return Path(os.environ.get("MOFO_CACHE") or platformdirs.user_cache_dir("mofo"))

"""What tells one model from another: the SHA-256 of its weights, as they are stored."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mofo.files import sha256
from mofo.models.files import weight_files
from mofo.models.load import local_folder


def stored_digest(spec: str) -> str | None:
    """Return the SHA-256 of a model's file of weights in hexadecimal, as `sha256sum` prints it.

    Of weights in several files it is that of what `sha256sum` prints for them in their folder, by name; None if there
    are no files of a known name.

    Args:
        spec: The model, as for `mofo.models.load.local_folder`.

    Raises:
        UserError: As `local_folder` and `weight_files`.
    """
    files = [Path(spec).expanduser()] if Path(spec).suffix == ".gguf" else weight_files(local_folder(spec))
    if len(files) < 2:
        return sha256(files[0]) if files else None
    lines = "".join(f"{sha256(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()

"""What tells one model from another: the SHA-256 of its weights, as they are stored."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mofo.files import sha256
from mofo.models.load import local_folder

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin")
"""Files of weights, in the order in which they are looked for."""


def stored_digest(spec: str) -> str | None:
    """Return the SHA-256 of a model's file of weights in hexadecimal, as `sha256sum` prints it.

    Of weights in several files it is that of what `sha256sum *.safetensors` prints in their folder; None if there are
    no files of a known name.

    Args:
        spec: The model, as for `mofo.models.load.local_folder`.

    Raises:
        UserError: As `local_folder`.
    """
    files = _weight_files(spec)
    if len(files) < 2:
        return sha256(files[0]) if files else None
    lines = "".join(f"{sha256(file)}  {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _weight_files(spec: str) -> list[Path]:
    """Return the files of a model's weights in the order of their names."""
    if Path(spec).suffix == ".gguf":
        return [Path(spec).expanduser()]
    folder = local_folder(spec)
    found = (sorted(folder.glob(pattern)) for pattern in WEIGHTS)
    return next((files for files in found if files), [])

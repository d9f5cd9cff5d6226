"""The files of a model in its folder: those that hold its weights, and the small ones beside them."""

from __future__ import annotations

from pathlib import Path

from mofo.errors import UserError, first_line
from mofo.files import read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

OLD_WEIGHTS = ("pytorch_model*.bin", "adapter_model.bin")
"""Files of weights that are taken where there are none as safetensors."""

SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py")
"""Files that belong to a model beside its weights."""


def safetensors_files(folder: Path) -> list[Path]:
    """Return the safetensors files in which a model or an adapter lies, as transformers finds them, by name.

    Whatever other files of this kind lie there, such as a delta, is no part of it.

    Raises:
        UserError: The index of several files cannot be read, or one that it names is missing.
    """
    for name in (WEIGHTS, ADAPTER_WEIGHTS):
        if (folder / name).is_file():
            return [folder / name]
    try:
        files = sorted({folder / name for name in read_json(folder / INDEX)["weight_map"].values()})
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{folder / INDEX} cannot be read ({first_line(error)}): get it again.") from error
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(f"{folder} lacks {missing[0]}, which its index names: get the model again.")
    return files


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a model's weights by name, as safetensors or of old kinds; none if it has none.

    Raises:
        UserError: As `safetensors_files`.
    """
    old = (sorted(folder.glob(pattern)) for pattern in OLD_WEIGHTS)
    return safetensors_files(folder) or next((files for files in old if files), [])

"""`mofo blend --save`: the model at a share of the way from a base to a tuned model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from pydantic import Field

from mofo.deltas.apply import check_output, check_room, writable_folder
from mofo.deltas.blending import blended
from mofo.deltas.pieces import FLOATS, one_thread
from mofo.deltas.stored import StoredModel
from mofo.errors import UserError
from mofo.models.adapter import CONFIG, is_adapter, scaled_config
from mofo.models.load import local_folder
from mofo.results import Record
from mofo.training import FILE_NAME as TRAINING


class Shared(Record):
    """A model that was written."""

    folder: str = Field(description="where it lies")
    bytes: int = Field(description="size of its weights")
    scale: float = Field(description="the share of the change that it has")


class Share:
    """A share of the change from a base to a tuned model, to be written: checked when it is made.

    An adapter stays one: its α is scaled. Otherwise a piece of a tensor of each model is in memory at a time, and the
    files beside the weights are the tuned model's.

    Args:
        base: The base, as for `mofo.models.load.local_folder`.
        tuned: The tuned model, or an adapter of the base.
        scale: The share c, in [0, 1]. At 1 the weights are the tuned model's to the bit, at 0 the base's, in the tuned
            model's type.
        output: Folder to write.
        overwrite: Whether a model in that folder is replaced.

    Raises:
        UserError: There is no model between the two, or it cannot be written there.
    """

    def __init__(self, base: str, tuned: str, scale: float, output: Path, *, overwrite: bool = False) -> None:
        check_output(output, overwrite=overwrite)
        self._scale, self._output, self._overwrite = scale, output, overwrite
        self._base, self._tuned = local_folder(base), local_folder(tuned)
        if is_adapter(self._base):
            raise UserError(f"{base} is an adapter, and the way begins at a whole model: merge it into its base first.")
        with StoredModel(self._tuned) as after:
            check_room(output.resolve().parent, after.size)
            if is_adapter(self._tuned):
                scaled_config((self._tuned / CONFIG).read_bytes(), after.entries, scale)
                return
            with StoredModel(self._base) as before:
                _check_blendable(base, tuned, before, after)

    def write(self, beside: Mapping[str, str]) -> Shared:
        """Write the model, whole or not at all.

        Args:
            beside: Texts of files that are written beside it, by name.

        Returns:
            What was written.

        Raises:
            UserError: It cannot be written. The folder is then as it was before.
        """
        with writable_folder(self._output, overwrite=self._overwrite) as folder, StoredModel(self._tuned) as after:
            check_room(folder, after.size)
            for name, path in after.small_files().items():
                if name != TRAINING:  # says how the tuned model was made, which this is not
                    shutil.copyfile(path, folder / name)
            if is_adapter(self._tuned):
                config = scaled_config((self._tuned / CONFIG).read_bytes(), after.entries, self._scale)
                (folder / CONFIG).write_bytes(config)
                for name in after.files:
                    shutil.copyfile(self._tuned / name, folder / name)
            else:
                self._write_weights(folder, after)
            for name, text in beside.items():
                (folder / name).write_text(text, encoding="utf-8")
            size = sum((folder / name).stat().st_size for name in after.files)
        return Shared(folder=str(self._output), bytes=size, scale=self._scale)

    def _write_weights(self, folder: Path, after: StoredModel) -> None:
        with ExitStack() as opened:
            before = opened.enter_context(StoredModel(self._base))
            opened.enter_context(one_thread())
            for file_name, file in after.files.items():
                with (folder / file_name).open("wb") as target:
                    header = file.header.encode()
                    target.write(len(header).to_bytes(8, "little") + header)
                    for name, entry in file.entries.items():
                        for number, piece in enumerate(file.pieces(name)):
                            old = before.piece(name, number)
                            target.write(blended(name, old, before.entries[name], piece, entry, self._scale))


def _check_blendable(base: str, tuned: str, before: StoredModel, after: StoredModel) -> None:
    """Refuse models that are not stored alike."""
    if different := sorted(before.entries.keys() ^ after.entries.keys()):
        one, other = (base, tuned) if different[0] in before.entries else (tuned, base)
        raise UserError(
            f"{one} stores {different[0]} and {other} does not, so that no share of its change can be saved: give a "
            "base and a model tuned from it, both written by save_pretrained."
        )
    for name, new in after.entries.items():
        old = before.entries[name]
        if old.shape[1:] != new.shape[1:]:
            raise UserError(
                f"{name} is {list(old.shape)} in {base} and {list(new.shape)} in {tuned}: give a base and a model "
                "tuned from it."
            )
        floats = old.dtype in FLOATS and new.dtype in FLOATS
        if not floats and (old.dtype != new.dtype or before.digest(name) != after.digest(name)):
            raise UserError(
                f"{name} is stored as {old.dtype} in {base} and {new.dtype} in {tuned}, of which a share cannot be "
                "taken: give models in 16 or 32 bits."
            )

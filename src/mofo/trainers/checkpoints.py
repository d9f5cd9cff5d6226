"""Checkpoints that transformers' trainers wrote."""

from __future__ import annotations

from pathlib import Path

from mofo.files import read_json


def last_checkpoint(folder: Path, *, since: float = 0.0) -> Path | None:
    """Return the newest checkpoint that was written to its end; the others are of a training that was killed.

    The trainer writes `trainer_state.json` last, so a checkpoint is whole if that file is.

    Args:
        folder: The trainer's output folder.
        since: Pass over checkpoints that were written before this time, in seconds since the epoch.
    """
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.split("-")[1].isdecimal()]
    for checkpoint in sorted(numbered, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        state = checkpoint / "trainer_state.json"
        try:
            read_json(state)
            if state.stat().st_mtime >= since:
                return checkpoint
        except (OSError, ValueError):
            continue
    return None

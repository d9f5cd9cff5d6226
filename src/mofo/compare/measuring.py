"""How far a job has come with measuring, in a file that the process which draws the bars reads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mofo.files import read_json, write_json
from mofo.measure.progress import watched
from mofo.results import Record

FILE_NAME = "measuring.json"


class Measuring(Record):
    """A probe that is being taken."""

    probe: str
    done: int
    total: int
    seconds_left: float | None

    @property
    def text(self) -> str:
        """What a bar shows."""
        left = "" if self.seconds_left is None else f", {round(self.seconds_left)} s left"
        return f"{self.probe} {self.done}/{self.total}{left}"


@contextmanager
def progress_in(folder: Path) -> Iterator[None]:
    """Keep a file in a folder that says how far the measuring is, as long as it takes."""
    began: dict[str, tuple[float, int]] = {}

    def write(probe: str, done: int, total: int) -> None:
        now = time.monotonic()
        since, first = began.setdefault(probe, (now, done))
        left = (now - since) / (done - first) * (total - done) if done > first else None
        found = Measuring(probe=probe, done=done, total=total, seconds_left=left)
        write_json(folder / FILE_NAME, found.model_dump())
        if done == total:
            del began[probe]

    try:
        with watched(write):
            yield
    finally:
        (folder / FILE_NAME).unlink(missing_ok=True)


def read_progress(folder: Path) -> Measuring | None:
    """Return what is being measured; None if nothing is."""
    try:
        return Measuring.model_validate(read_json(folder / FILE_NAME))
    except FileNotFoundError:
        return None

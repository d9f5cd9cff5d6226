"""One job in a process of its own: measure the base, or fine-tune once and measure along the way.

`mofo compare` starts `python -m mofo.compare.worker FOLDER JOB [STEP]` for each job. Everything a job needs lies in the
folder, and everything it finds out goes there, so that a job that was killed goes on from its last checkpoint. With a
step a run is left there, to go on later.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from accelerate import PartialState

from mofo.compare.fine_tuning import FineTuning
from mofo.compare.folder import ALONE, BASE_JOB, REFUSED
from mofo.compare.job import Job, measure_base
from mofo.compare.launch import is_launched
from mofo.errors import UserError
from mofo.models.quiet import quiet


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, so that no two ever write to the same run."""

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin: a thread that waits for its lock would disturb the interpreter's end
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(folder: str, job_name: str, *words: str) -> int:
    """Do one job and return the exit code. The last line of the output says what went wrong.

    Args:
        folder: The output folder.
        job_name: `base`, or the name of a run.
        words: The step after which to leave the run, or `ALONE`.
    """
    until = next((int(word) for word in words if word != ALONE), None)
    if ALONE not in words:
        _end_with_parent()
    quiet()
    if is_launched():
        PartialState()  # this process's GPU becomes the current one
    try:
        job = Job(Path(folder))
        if job_name == BASE_JOB:
            measure_base(job)
        else:
            FineTuning(job, job_name).train(until)
    except UserError as error:
        print(f"{REFUSED}{error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__" and (code := main(*sys.argv[1:])):
    sys.exit(code)

"""Programs that a model wrote, each run in a process of its own: with limits, without network, in an empty folder.

What this keeps a program from: using more than `CPU_SECONDS` and `MEMORY`, running longer than `SECONDS`, writing files
of more than a mebibyte, opening sockets, and staying behind as a process of the same group. What it does not keep it
from: reading the user's files, and removing or overwriting them. Who does not trust a model that far runs `mofo` in a
container.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from mofo.errors import UserError

CPU_SECONDS = 3
SECONDS = 15.0
"""Of the clock: on a busy machine the seconds of the processor take longer."""

MEMORY = 2 << 30

ISOLATED = Path(__file__).with_name("isolated.py")


def passes(program: str) -> bool:
    """Run a program and return whether it comes to its end without an error.

    Raises:
        UserError: The network cannot be closed to it on this machine; then it has not run.
    """
    closed, passed = _run(program)
    if not closed:
        raise UserError(_REFUSED)
    return passed


@cache
def isolation() -> str:
    """Return how the network is closed to programs on this machine, in words.

    Raises:
        UserError: It cannot be closed.
    """
    closed, passed = _run("import socket\ntry:\n    socket.socket()\nexcept PermissionError:\n    pass")
    if not closed or not passed:
        raise UserError(_REFUSED)
    names = {"filter": "the kernel refuses to open sockets", "namespace": "a network namespace without interfaces"}
    return " and ".join(names[way] for way in closed.split("+"))


_REFUSED = (
    "Generated code runs without network only, and this system offers neither seccomp nor network namespaces to this "
    "user: use Linux, or leave tasks that run code out."
)


def _run(program: str) -> tuple[str, bool]:
    """Run a program, and return how the network was closed to it, and whether it came to its end."""
    reader, writer = os.pipe()
    with tempfile.TemporaryDirectory(prefix="mofo-program-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", str(ISOLATED), str(CPU_SECONDS), str(MEMORY), str(writer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"HOME": folder, "PATH": os.defpath, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            pass_fds=[writer],
            start_new_session=True,
        )
        os.close(writer)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
                process.communicate(program.encode("utf-8", "replace"), timeout=SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    os.set_blocking(reader, False)  # a process that the program left behind may still hold the other end
    try:
        closed, _, end = os.read(reader, 4096).decode(errors="replace").partition("\n")
    except BlockingIOError:
        closed, end = "", ""
    os.close(reader)
    return closed, end == "passed"

"""Runs the program on standard input in this process, after it has given up what the program must not have.

`sandbox.py` starts this file by itself, as a script that needs the standard library alone. Its arguments are the most
seconds of CPU time, the most bytes of memory, and the file descriptor to which it writes how the network is closed, and
then that the program came to its end. A program that ends the process before its end has therefore not passed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import struct
import sys

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 1  # the latter returns EPERM

SYSTEMS = {"x86_64": (0xC000003E, (41, 425)), "aarch64": (0xC00000B7, (198, 425))}
"""For each machine the kernel's number of its architecture, and those of the calls `socket` and `io_uring_setup`."""


def main() -> None:
    """Give up what the program must not have, and run it."""
    seconds, memory, report = map(int, sys.argv[1:])
    program = sys.stdin.read()
    for limit, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 1 << 20),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    ways = [name for name, close in (("filter", filter_calls), ("namespace", leave_network)) if close()]
    os.write(report, f"{'+'.join(ways)}\n".encode())
    if ways:
        exec(compile(program, "program", "exec"), {"__name__": "__main__"})
        os.write(report, b"passed")


def leave_network() -> bool:
    """Move into a network of its own, which has no interface; return whether the kernel permits it."""
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    return unshare is not None and unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0


def filter_calls() -> bool:
    """Have the kernel refuse to open sockets, in this process and all that it starts; return whether it does."""
    if sys.platform != "linux" or platform.machine() not in SYSTEMS:
        return False
    architecture, calls = SYSTEMS[platform.machine()]
    refuse = len(calls) + 2  # index of the instruction that refuses, seen from the fourth
    code = [
        (0x20, 0, 0, 4),  # load the architecture
        (0x15, 0, refuse + 1, architecture),  # another one is refused
        (0x20, 0, 0, 0),  # load the number of the call
        (0x35, refuse - 1, 0, 0x40000000),  # those of another calling convention are refused
        *((0x15, refuse - 2 - place, 0, call) for place, call in enumerate(calls)),
        (0x06, 0, 0, ALLOW),
        (0x06, 0, 0, REFUSE),
    ]
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    header = ctypes.create_string_buffer(struct.pack("HL", len(code), ctypes.addressof(instructions)))
    prctl = ctypes.CDLL(None).prctl
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    return not prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_void_p(ctypes.addressof(header)), 0, 0)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()

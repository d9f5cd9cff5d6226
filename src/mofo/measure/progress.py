"""How far a long measurement has come, for whoever watches it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Watcher = Callable[[str, int, int], None]
"""Takes what is measured, how many of its questions are done, and how many there are."""


def _nobody(what: str, done: int, total: int) -> None:
    pass


_watcher: ContextVar[Watcher] = ContextVar("watcher", default=_nobody)


def report(what: str, done: int, total: int) -> None:
    """Report how many questions of a probe a model has answered."""
    _watcher.get()(what, done, total)


@contextmanager
def stage(what: str) -> Iterator[None]:
    """Report the beginning and the end of something that is done in one go."""
    report(what, 0, 1)
    yield
    report(what, 1, 1)


@contextmanager
def watched(watcher: Watcher, every: float = 0.5) -> Iterator[None]:
    """Call a function with what is reported inside.

    Args:
        watcher: The function.
        every: Seconds that pass at least between two calls; the first and last of a probe are always passed on.
    """
    last = 0.0

    def call(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done in (0, total) or now - last >= every:
            last = now
            watcher(what, done, total)

    token = _watcher.set(call)
    try:
        yield
    finally:
        _watcher.reset(token)


@contextmanager
def bars(*, shown: bool = True) -> Iterator[None]:
    """Draw a bar on the terminal for each measurement that is made inside, with the time that is left.

    Args:
        shown: Whether this process draws at all.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as drawn:

        def draw(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = drawn.add_task(what, total=total)
            drawn.update(tasks[what], completed=done, total=total)
            if done == total:
                drawn.remove_task(tasks.pop(what))

        with watched(draw):
            yield

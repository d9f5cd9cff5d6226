"""When a training is measured: every so many steps, or as often as a share of its time allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mofo.errors import UserError

EVERY = 50
"""Steps between two measurements, or a multiple of them, where no number is asked for."""

SHARE = 0.02
"""The largest share of a training's time that measurements along it take, where no number of steps is asked for."""


class Pace:
    """Decides after which steps of a training it is measured.

    What a measurement costs in steps depends on their size: with SmolLM2 and the default probes one takes as long as
    four steps of 512 tokens, or half a step of 4096. So without a number of steps the first measurement is after
    `EVERY`, and each later one after the first multiple of `EVERY` at which all measurements so far and it, expected to
    take as long as their mean, are at most `SHARE` of the time since the beginning.

    Args:
        every: Steps between two measurements, whatever they cost; None for as many as the share allows.
        clock: Returns the time in seconds.

    Raises:
        UserError: `every` is no number of steps.
    """

    def __init__(self, every: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        if every is not None and every < 1:
            raise UserError(f"every is {every}, expected a number of steps of at least 1.")
        self.every, self._clock = every, clock
        self.begin()

    @property
    def is_timed(self) -> bool:
        """Whether time decides, which differs between processes."""
        return self.every is None

    def begin(self) -> None:
        """Begin to take the time: now the training begins."""
        self._start, self._spent, self._number = self._clock(), 0.0, 0

    def is_at(self, step: int) -> bool:
        """Return whether a measurement after a step is possible at all."""
        return step % (self.every or EVERY) == 0

    def allows(self) -> bool:
        """Return whether one more measurement stays within the share; always where a number of steps was asked for."""
        if not self.is_timed or not self._number:
            return True
        expected = self._spent * (self._number + 1) / self._number
        return expected <= SHARE * (self._clock() - self._start)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Take the time of a measurement."""
        start = self._clock()
        yield
        self._spent += self._clock() - start
        self._number += 1

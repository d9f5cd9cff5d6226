"""When a training is measured: every so many steps, or as often as a share of its time allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mofo.errors import UserError
from mofo.processes import from_first

EVERY = 50
"""Steps between two measurements, or a multiple of them, where no number is asked for."""

SHARE = 0.02
"""What measurements along a training add to its time at most, where no number of steps is asked for."""


class Pace:
    """Decides after which steps of a training it is measured.

    What a measurement costs in steps depends on their size: the default probes read about 6100 tokens forwards, which
    is the work of four training steps of 512 tokens, or of half a step of 4096. So without a number of steps the first
    measurement is after `EVERY`, and each later one after the first multiple of `EVERY` at which it and all before it,
    if it takes as long as their mean, are at most `SHARE` of what the steps have taken.

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

    def begin(self) -> None:
        """Begin to take the time: now the training begins."""
        self._start, self._spent, self._number = self._clock(), 0.0, 0

    def is_due(self, step: int) -> bool:
        """Return whether a training is measured after a step, the same in all processes, all of which must ask."""
        if self.every is not None:
            return step % self.every == 0
        return step % EVERY == 0 and from_first(self._is_within_share())

    def _is_within_share(self) -> bool:
        """Return whether one more measurement stays within the share; the first always does."""
        expected = self._spent * (self._number + 1) / max(1, self._number)
        return expected <= SHARE * (self._clock() - self._start - self._spent)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Take the time of a measurement."""
        start = self._clock()
        yield
        self._spent += self._clock() - start
        self._number += 1

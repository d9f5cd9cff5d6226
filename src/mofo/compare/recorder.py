"""What a run writes down while it trains: the loss of every step, and measurements at the recipe's points."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from mofo.files import append_jsonl, read_jsonl
from mofo.results import FinalDistance, Point, Record, Seconds, TrainingStep


class Measurement(Record):
    """A point of a run, with the distance in full and the time that the run has taken so far."""

    kind: Literal["point"] = "point"
    point: Point
    distance: FinalDistance
    seconds: Seconds


class Pause(Record):
    """A step after which the run was left, to be taken up again later, with the time that it has taken so far."""

    kind: Literal["pause"] = "pause"
    step: int
    seconds: Seconds


class LoggedStep(TrainingStep):
    """A training step of a run."""

    kind: Literal["training"] = "training"


class Recorder(TrainerCallback):
    """Writes a `LoggedStep`, `Measurement` or `Pause` a line, and asks for a checkpoint after the last two.

    The run's last point has none.

    It comes after the callbacks of the method's parts, which may end the training or change its end.

    Steps and seconds count from the run's beginning, earlier tasks and sessions included.

    Args:
        path: The file. What it holds already belongs to the part of the run that is done.
        points: The steps after which to measure.
        before: Steps of the run before the trainer's first.
        last: The last step of the run.
        measure: Measures the model as it is after a step; called with the step, and whether the method ended the run
            with it.
        saved: Called after each checkpoint.
        until: The step after which to leave the run; None for its end.
        writes: Whether to write; of several processes that train together one does, but all measure.
    """

    def __init__(
        self,
        path: Path,
        *,
        points: list[int],
        before: int,
        last: int,
        measure: Callable[[int, bool], tuple[Point, FinalDistance]],
        saved: Callable[[], None],
        until: int | None = None,
        writes: bool = True,
    ) -> None:
        self.path = path
        self.writes = writes
        self.points = points
        self.before = before
        self.last = last
        self.measure = measure
        self.saved = saved
        self.until = until
        earlier = [row["seconds"] for row in read_jsonl(path) if "seconds" in row]
        so_far = Seconds.model_validate(earlier[-1]) if earlier else Seconds()
        self.optimizer = so_far.optimizer or 0.0
        self.training = so_far.training or 0.0
        self.measuring = so_far.measuring or 0.0
        self.total_before = so_far.total or 0.0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Start the clocks."""
        self._time_optimizer(kwargs["optimizer"])
        self.began = self.training_since = time.perf_counter()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure at the points and where the method ends the run, and leave the run where that is wanted."""
        step = self.before + state.global_step
        ended = control.should_training_stop and state.global_step < state.max_steps
        leaves = step == self.until and step != self.last and not ended
        if step in self.points or ended:
            self._measure(step, ended)
        elif leaves:
            now = time.perf_counter()
            self.training += now - self.training_since
            self.training_since = now
            self._write(Pause(step=step, seconds=self._seconds()))
        else:
            return
        control.should_save = step != self.last and not ended
        if leaves:
            control.should_training_stop = True

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Say that there is a checkpoint."""
        self.saved()

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write down the training loss."""
        logs = kwargs["logs"]
        if "loss" in logs:
            step = LoggedStep(
                step=self.before + state.global_step,
                loss=float(logs["loss"]),
                learning_rate=float(logs["learning_rate"]),
            )
            self._write(step)

    def _measure(self, step: int, ended: bool) -> None:
        now = time.perf_counter()
        self.training += now - self.training_since
        point, distance = self.measure(step, ended)
        self.training_since = time.perf_counter()
        self.measuring += self.training_since - now
        self._write(Measurement(point=point, distance=distance, seconds=self._seconds()))

    def _seconds(self) -> Seconds:
        """Return the time that the run has taken up to the last look at the clock."""
        return Seconds(
            optimizer=round(self.optimizer, 3),
            training=round(self.training, 3),
            measuring=round(self.measuring, 3),
            total=round(self.total_before + self.training_since - self.began, 3),
        )

    def _write(self, row: Measurement | Pause | LoggedStep) -> None:
        if self.writes:
            append_jsonl(self.path, row.model_dump(mode="json"))

    def _time_optimizer(self, optimizer: Any) -> None:
        """Add the time of every optimizer step to the seconds of the optimizer."""
        started = 0.0

        def before(*_: Any) -> None:
            nonlocal started
            started = _clock()

        def after(*_: Any) -> None:
            self.optimizer += _clock() - started

        inner = optimizer.optimizer  # accelerate wraps it
        inner.register_step_pre_hook(before)
        inner.register_step_post_hook(after)


def _clock() -> float:
    """Return the time in seconds, after the GPU has done everything that was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()

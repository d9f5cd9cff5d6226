"""What a run writes down while it trains: the loss of every step, and measurements at the recipe's points."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from mofo.files import append_jsonl, read_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NO_TIME = {"optimizer": 0.0, "training": 0.0, "measuring": 0.0, "total": 0.0}


class Recorder(TrainerCallback):
    """Writes ``metrics.jsonl`` and asks for a checkpoint after each measurement but the last.

    A line is ``{"kind": "training", "step", "loss", "learning_rate"}`` or ``{"kind": "point", "step", "learned",
    "forgotten", "distance", "seconds"}``; seconds count from the run's beginning, earlier sessions included.

    Args:
        path: The file. What it holds already belongs to the part of the run that is done.
        points: The steps after which to measure.
        measure: Measures the model as it is; called with whether this is the last point.
    """

    def __init__(self, path: Path, *, points: list[int], measure: Callable[[bool], dict[str, Any]]) -> None:
        self.path = path
        self.points = points
        self.measure = measure
        earlier = [row["seconds"] for row in read_jsonl(path) if row["kind"] == "point"]
        self.seconds: dict[str, float] = dict(earlier[-1] if earlier else _NO_TIME)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Starts the clocks."""
        self._time_optimizer(kwargs["optimizer"])
        self.began = self.training_since = time.perf_counter()
        self.total_before = self.seconds["total"]

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measures at the points."""
        if state.global_step not in self.points:
            return
        last = state.global_step == self.points[-1]
        now = time.perf_counter()
        self.seconds["training"] += now - self.training_since
        measured = self.measure(last)
        self.training_since = time.perf_counter()
        self.seconds["measuring"] += self.training_since - now
        self.seconds["total"] = self.total_before + self.training_since - self.began
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        append_jsonl(self.path, {"kind": "point", "step": state.global_step, **measured, "seconds": seconds})
        control.should_save = not last

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        """Writes down the training loss."""
        if "loss" in logs:
            values = {"loss": float(logs["loss"]), "learning_rate": float(logs["learning_rate"])}
            append_jsonl(self.path, {"kind": "training", "step": state.global_step, **values})

    def _time_optimizer(self, optimizer: Any) -> None:
        """Adds the time of every optimizer step to the seconds of the optimizer."""
        started = 0.0

        def before(*_: Any) -> None:
            nonlocal started
            started = _clock()

        def after(*_: Any) -> None:
            self.seconds["optimizer"] += _clock() - started

        inner = optimizer.optimizer  # accelerate wraps it
        inner.register_step_pre_hook(before)
        inner.register_step_post_hook(after)


def weights_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The model's parameters by name, tied ones once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def peak_memory(device: torch.device) -> int:
    """The most memory held so far, in bytes: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _clock() -> float:
    """The time in seconds, after all that was asked of the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()

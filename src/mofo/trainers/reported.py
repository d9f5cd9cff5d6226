"""Callbacks whose values go to whatever `report_to` of transformers' trainers names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from transformers import TrainerCallback

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

Self = TypeVar("Self", bound="ReportedCallback")


class ReportedCallback(TrainerCallback):
    """Adds values to the training log of a step, for the callbacks that report and for the history.

    Each callback sees what the earlier ones have logged, and trainers put those that report before those that users
    pass: a reported callback is attached in front of them.

    Attributes:
        values: What is added to the next training log.
    """

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self._first = False

    def put_first(self: Self, trainer: Trainer) -> Self:
        """Add the callback to a trainer, before those that report, and return it."""
        self._first = True
        trainer.callback_handler.callbacks.insert(0, self)
        return self

    def check_place(self, args: TrainingArguments) -> None:
        """Check that those that report see the values.

        Raises:
            ValueError: There are some, and the callback comes after them.
        """
        if args.report_to and not self._first:
            name = type(self).__name__
            raise ValueError(
                f"{name} must come before the callbacks that report to {', '.join(args.report_to)}: use "
                f"{name}.attach(trainer) instead of callbacks=[{name}()]"
            )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the values to a training log: to what the later callbacks see, and to the history."""
        if logs and "loss" in logs:
            logs.update(self.values)
            state.log_history[-1].update(self.values)
            self.values = {}

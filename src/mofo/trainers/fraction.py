"""Schedules of the fraction in the trainers of transformers and trl."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from transformers import TrainerCallback

from mofo.schedules import CosineFraction, FractionSchedule, LinearFraction, ShareFraction

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import TrainerControl, TrainerState, TrainingArguments

Shape = Literal["linear", "cosine", "share"]
SHAPES: tuple[Shape, ...] = get_args(Shape)

END = 0.05
"""Where a schedule ends if nothing else is asked for: the least that the paper recommends."""

SHARE = 0.5
"""The share of the momentum that is kept if nothing else is asked for."""


class FractionCallback(TrainerCallback):
    """Change MoFO's fraction along a training, as a scheduler changes the learning rate.

    The fraction and what it began with are in the checkpoints, as options of the optimizer's groups, so a resumed
    training goes on with the same.

    Args:
        shape: `linear` or `cosine`, from the optimizer's own fraction to `end`; or `share`, the smallest fraction whose
            selected entries hold `share` of the momentum's L1 norm.
        end: Fraction of the last step, for `linear` and `cosine`.
        share: Share to keep, for `share`.

    Raises:
        ValueError: The shape is unknown, or a number is out of range.

    Example:
        >>> trainer.add_callback(FractionCallback("cosine", end=0.05))
    """

    def __init__(self, shape: Shape, *, end: float = END, share: float = SHARE) -> None:
        if shape not in SHAPES:
            raise ValueError(f"shape is {shape!r}, expected one of {', '.join(SHAPES)}")
        if not 0 < end <= 1:
            raise ValueError(f"end is {end!r}, expected a fraction in (0, 1]")
        if not 0 < share < 1:
            raise ValueError(f"share is {share!r}, expected a number between 0 and 1")
        self.shape, self.end, self.share = shape, end, share

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the schedule, and continue it where a checkpoint left it."""
        optimizer = kwargs["optimizer"]
        optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        self._schedule = self._make(optimizer, state.max_steps)
        self._schedule.last_step = state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Set the fraction of the next step."""
        self._schedule.step()

    def _make(self, optimizer: Optimizer, steps: int) -> FractionSchedule:
        if self.shape == "share":
            return ShareFraction(optimizer, self.share)
        return (LinearFraction if self.shape == "linear" else CosineFraction)(optimizer, self.end, steps)

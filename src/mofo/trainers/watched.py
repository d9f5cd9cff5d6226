"""A training that is watched, and held within a budget if it has one; the callbacks of all trainers drive it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.errors import UserError
from mofo.forgetting import Kept
from mofo.trainers.budget import Budget, Way
from mofo.trainers.keeper import Keeper
from mofo.trainers.pace import EVERY
from mofo.trainers.watch import Watch

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mofo.results import TrainingStep


class WatchedTraining:
    """One training, measured along its way and held within a budget at its end.

    Args:
        probes: What to measure; what the budget names is measured in any case.
        every: Steps between two measurements; None as for `mofo.trainers.pace.Pace`. A budget that acts along the
            training is measured every `EVERY` steps then: time must not decide what is learned.
        seed: Seed of what the probes draw.
        budget: By how much probes may get worse until the end; None without a budget.
        way: How the budget is held.
        origin: The base's weights by name, if the caller keeps them anyway.

    Attributes:
        kept: How the budget was held; None before the end, and without a budget.

    Raises:
        UserError: A probe, the budget or the number of steps cannot be used.
    """

    def __init__(
        self,
        probes: Sequence[str],
        every: int | None,
        *,
        seed: int,
        budget: Mapping[str, float] | None,
        way: Way,
        origin: Mapping[str, Tensor] | None = None,
    ) -> None:
        bounds = None if budget is None else Budget(budget, way)
        if bounds is not None and bounds.brakes:
            every = EVERY if every is None else every
        self.watch = Watch(list(dict.fromkeys([*probes, *(budget or ())])), every, seed=seed)
        self._keeper = None if bounds is None else Keeper(bounds, self.watch, origin)
        self._held = -1
        self.kept: Kept | None = None

    def begin(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        *,
        step: int,
        resumable: bool,
        precision: str,
        used: float,
        computing: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Measure the base, or read what was measured of it, and keep what the budget needs of it.

        Args:
            model: The model that will be trained, in all processes.
            tokenizer: Its tokenizer.
            folder: Where files go.
            step: Steps that it has been trained for; above 0 the training is resumed.
            resumable: Whether there will be checkpoints.
            precision: The trainer's own name of the precision that it computes in.
            used: The share of the budget that was used when it was last measured along a resumed training.
            computing: Context in which the model computes, such as autocast.

        Raises:
            UserError: The budget cannot be held.
        """
        self.kept, self._held, at_base = None, -1, None
        if self._keeper is not None:
            at_base = self._keeper.begin(model, folder, step=step, resumable=resumable, used=used)
        self.watch.begin(
            model,
            tokenizer,
            folder,
            step=step,
            resumable=resumable,
            precision=precision,
            computing=computing,
            at_base=at_base,
        )
        if self._keeper is not None and not self.watch.is_ready:
            raise UserError(
                f"The budget cannot be held: what was measured of the base is not in {folder}; resume in the folder in "
                "which the training began, or start anew."
            )
        if self._keeper is not None and self.watch.kept is not None and self.watch.kept.step == step:
            self.kept, self._held = self.watch.kept, step  # the checkpoint is of the end that was held

    @property
    def has_budget(self) -> bool:
        """Whether the end is held within a budget."""
        return self._keeper is not None

    @property
    def brakes(self) -> bool:
        """Whether steps of the optimizer may be braked."""
        return self._keeper is not None and self._keeper.budget.brakes

    @property
    def used(self) -> float:
        """The share of the budget that was used when it was last measured along the training."""
        return 0.0 if self._keeper is None else self._keeper.used

    @property
    def has_ended(self) -> bool:
        """Whether nothing would move any more, so that the training can end."""
        return self._keeper is not None and self._keeper.has_ended

    def before_step(self, optimizer: Optimizer) -> None:
        """Brake a step of the optimizer, if the budget asks for it."""
        if self._keeper is not None:
            self._keeper.before_step(optimizer)

    def after_step(self) -> None:
        """Release the brake."""
        if self._keeper is not None:
            self._keeper.after_step()

    def is_due(self, step: int, last: int | None = None) -> bool:
        """Return whether a step is one to measure after."""
        return self.watch.is_due(step, last)

    def measure(self, model: PreTrainedModel, step: int) -> dict[str, float]:
        """Measure the model after a step, and return what is to be logged."""
        values = self.watch.measure(model, step)
        return values if self._keeper is None else self._keeper.measured(values)

    def end(self, model: PreTrainedModel, step: int, planned: int) -> dict[str, float]:
        """Measure the end of a training, if that has not been done, and hold the budget there.

        Args:
            model: The model after its last step.
            step: The last step.
            planned: The step that was to be the last.

        Returns:
            What is to be logged; nothing if the end was measured and held before.
        """
        values = self.measure(model, step) if self.is_due(step, step) else {}
        if self._keeper is not None and self._held != step:
            self._held = step
            self.kept, values = self._keeper.hold(model, step, planned)
        return values

    def measure_other_end(self, model: PreTrainedModel, step: int) -> None:
        """Measure the end again where there is a budget, to be held: the weights are no longer those of the step."""
        if self._keeper is not None:
            self.watch.measure(model, step)
            self._held = -1

    def write(self, training: Sequence[TrainingStep]) -> None:
        """Write `forgetting.json`; call it in one process."""
        self.watch.write(training)

"""What a model forgets while it is trained, in the logs of Lightning's trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy

from mofo.errors import UserError
from mofo.forgetting import Kept
from mofo.results import TrainingStep
from mofo.trainers.budget import Way
from mofo.trainers.lightning.planned import planned_steps
from mofo.trainers.watch import PROBES
from mofo.trainers.watched import WatchedTraining

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ForgettingCallback(Callback):
    """Measure what a model has forgotten, along its training, for all loggers of Lightning's trainer.

    `mofo.trainers.ForgettingCallback` says what is measured and when, and how a budget is held; `forgetting.json` goes
    into `default_root_dir`. The values are in `trainer.callback_metrics` too, so that
    `EarlyStopping(monitor="forgotten/divergence")` and `ModelCheckpoint` can follow them.

    A budget is held when the last step ends, before it is validated and saved; where another callback ends the training
    after that, it is held when the training ends. Checkpoints of earlier steps are as they were, `best_model_path` too.
    A way that stops the training does so no sooner than `min_steps` and `min_epochs` allow: until then nothing moves.

    Args:
        tokenizer: The model's tokenizer.
        probes: What to measure, as for `mofo measure`.
        every: Optimizer steps between two measurements.
        model: Where the language model of transformers or peft is in the module.
        seed: Seed of what the probes draw.
        budget: By how much probes may get worse until the end, in their units: `{"divergence": 0.05}`.
        way: How the budget is held: `pull`, `stop`, `slow`, `stop-pull` or `slow-pull`.

    Examples:
        >>> L.Trainer(callbacks=[ForgettingCallback(tokenizer, budget={"divergence": 0.05})])

    Raises:
        UserError: A probe or the budget cannot be used; when the training begins, if the budget cannot be held.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        probes: Sequence[str] = PROBES,
        every: int | None = None,
        *,
        model: str = "model",
        seed: int = 0,
        budget: Mapping[str, float] | None = None,
        way: Way = "pull",
    ) -> None:
        self._training = WatchedTraining(probes, every, seed=seed, budget=budget, way=way)
        self._tokenizer = tokenizer
        self._model_of = attrgetter(model)
        self._losses: list[TrainingStep] = []
        self._used = 0.0
        self._hooks: list[RemovableHandle] = []

    @property
    def kept(self) -> Kept | None:
        """How the budget was held; None before the end, and without a budget."""
        return self._training.kept

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed training brakes by: the share of the budget that is used."""
        return {"used": self._training.used}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on with the share of the budget that was used."""
        self._used = state_dict["used"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the base, or read what was measured of it."""
        if self._training.has_budget and isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy):
            raise UserError(
                f"{type(trainer.strategy).__name__} flattens the parameters, with which no budget can be held: use one "
                "process, DDPStrategy or ModelParallelStrategy, or leave out the budget."
            )
        self._losses = []
        self._training.begin(
            self._model_of(pl_module),
            self._tokenizer,
            Path(trainer.default_root_dir),
            step=trainer.global_step,
            resumable=bool(trainer.checkpoint_callbacks),
            precision=str(trainer.precision),
            used=self._used if trainer.global_step else 0.0,
            computing=trainer.precision_plugin.forward_context,
        )
        if self._training.brakes:
            self._hooks = [handle for optimizer in trainer.optimizers for handle in self._brake(optimizer)]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the model where a measurement is due; end the training if nothing may move any more, and hold it."""
        step = trainer.global_step
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor) and (not self._losses or self._losses[-1].step < step):
            self._losses.append(TrainingStep(step=step, loss=float(loss)))
        model: PreTrainedModel = self._model_of(pl_module)
        values = self._training.measure(model, step) if step and self._training.is_due(step) else {}
        if self._training.has_ended:
            trainer.should_stop = True
        if step and _is_last(trainer, batch_idx):
            values |= self._training.end(model, step, planned_steps(trainer) or step)
        if values:
            pl_module.log_dict(values, logger=False)
            self._report(trainer, values)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure a training that others have ended, hold the budget there, too, and write the file."""
        for hook in self._hooks:
            hook.remove()
        step = trainer.global_step
        self._report(trainer, self._training.end(self._model_of(pl_module), step, planned_steps(trainer) or step))

    def _brake(self, optimizer: Optimizer) -> tuple[RemovableHandle, RemovableHandle]:
        """Have the steps of an optimizer braked: within them, so that schedulers, which come after, see nothing."""
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UserError(
                f"The budget cannot be held along the training: {type(optimizer).__name__} is no "
                "torch.optim.Optimizer, whose steps can be braked; hold it by way='pull'."
            )
        return (
            optimizer.register_step_pre_hook(lambda *_: self._training.before_step(optimizer)),
            optimizer.register_step_post_hook(lambda *_: self._training.after_step()),
        )

    def _report(self, trainer: Trainer, values: dict[str, float]) -> None:
        """Give values, if there are any, to all loggers, and write the file."""
        for logger in trainer.loggers if values else ():
            logger.log_metrics(values, step=trainer.global_step)
        if trainer.is_global_zero:
            self._training.write(self._losses)


def _is_last(trainer: Trainer, batch_idx: int) -> bool:
    """Return whether a training ends with this batch, as far as that is known when callbacks see its end."""
    step = trainer.global_step
    ends_epoch = trainer.is_last_batch or batch_idx + 1 >= trainer.num_training_batches
    epochs = trainer.current_epoch + ends_epoch
    may_stop = step >= (trainer.min_steps or 0) and epochs >= (trainer.min_epochs or 0)
    return (
        step == trainer.max_steps or (ends_epoch and epochs == trainer.max_epochs) or (trainer.should_stop and may_stop)
    )

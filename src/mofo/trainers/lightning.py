"""What a model forgets while it is trained, in the logs of Lightning's trainer."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mofo.results import TrainingStep
from mofo.trainers.watch import EVERY, PROBES, Watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ForgettingCallback(Callback):
    """Measure what a model has forgotten, along its training, for all loggers of Lightning's trainer.

    `mofo.trainers.ForgettingCallback` says what is measured; `forgetting.json` goes into `default_root_dir`. The values
    are in `trainer.callback_metrics` too, so that `EarlyStopping(monitor="forgotten/divergence")` and
    `ModelCheckpoint` can follow them.

    Args:
        tokenizer: The model's tokenizer.
        probes: What to measure, as for `mofo measure`.
        every: Optimizer steps between two measurements.
        model: Where the language model of transformers or peft is in the module.
        seed: Seed of what the probes draw.

    Examples:
        >>> L.Trainer(callbacks=[ForgettingCallback(tokenizer, every=50)])
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        probes: Sequence[str] = PROBES,
        every: int = EVERY,
        *,
        model: str = "model",
        seed: int = 0,
    ) -> None:
        self._watch = Watch(probes, every, seed=seed)
        self._tokenizer = tokenizer
        self._model_of = attrgetter(model)
        self._training: list[TrainingStep] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the base, or read what was measured of it."""
        self._watch.begin(
            self._model_of(pl_module),
            self._tokenizer,
            Path(trainer.default_root_dir),
            step=trainer.global_step,
            resumable=bool(trainer.checkpoint_callbacks),
            precision=str(trainer.precision),
            computing=trainer.precision_plugin.forward_context,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the model where a measurement is due, and log it."""
        step = trainer.global_step
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor) and (not self._training or self._training[-1].step < step):
            self._training.append(TrainingStep(step=step, loss=float(loss)))
        if step and self._watch.is_due(step, trainer.max_steps):
            values = self._watch.measure(self._model_of(pl_module), step)
            for logger in trainer.loggers:
                logger.log_metrics(values, step=step)
            pl_module.log_dict(values, logger=False)
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the end, and write the file."""
        if self._watch.is_due(trainer.global_step, trainer.global_step):
            model: PreTrainedModel = self._model_of(pl_module)
            self._watch.measure(model, trainer.global_step)
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            self._watch.write(self._training)

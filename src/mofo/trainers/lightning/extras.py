"""Extras of the workbench's methods, such as self-distillation, in Lightning's trainer."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from mofo.errors import UserError
from mofo.measure.progress import bars
from mofo.methods.hooks import add_gradients
from mofo.methods.method import Entry, names_optimizer
from mofo.methods.part import Part, Setup
from mofo.trainers.beginning import beginning_of
from mofo.trainers.lightning.planned import planned_steps
from mofo.trainers.method import check_sharding, single_method
from mofo.trainers.watch import unnoticed

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PreTrainedTokenizerBase

NOT_SERVED = ("rows", "loss", "callbacks", "weights", "after_training")
"""Hooks of parts that need the rows, the module's own loss, the trainer of transformers, or a comparison."""


class ExtrasCallback(Callback):
    """Train with extras beside the optimizer that the module configures.

    What an extra adds to the loss has a backward pass of its own after that of the last batch of an optimizer step, so
    that it counts once however many batches a step has, and is clipped with the rest. The loss that the module returns
    and logs stays that of the task.

    What was made from the base, such as the text that it wrote, lies in `default_root_dir`, where a resumed training
    reads it: resume in the same folder.

    Args:
        tokenizer: The model's tokenizer.
        extras: The extras: `self-distill`, or a mapping from parts to settings.
        settings: Values for every part that has a setting of that name, or for one part: `self-distill.weight`.
        model: Where the language model of transformers or peft is in the module.
        seed: Seed of what the extras draw.

    Examples:
        >>> L.Trainer(callbacks=[ExtrasCallback(tokenizer, "self-distill")])

    Raises:
        UserError: An extra is unknown, is an optimizer, or needs more than forward and backward passes; when the
            training begins, if the strategy flattens the parameters, or it is resumed and lacks what the base had made.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        extras: Entry,
        settings: Mapping[str, Any] | None = None,
        *,
        model: str = "model",
        seed: int = 0,
    ) -> None:
        if names_optimizer(extras):
            raise UserError(f"{extras} names an optimizer, which is for configure_optimizers: leave it out.")
        self._method = single_method(extras, settings or {})
        for part in self._method.extras:
            if part.compares_with_base or any(
                getattr(type(part), hook) is not getattr(Part, hook) for hook in NOT_SERVED
            ):
                raise UserError(f"{part.name} needs more than forward and backward passes: it is not for Lightning.")
        self._tokenizer = tokenizer
        self._model_of = attrgetter(model)
        self._seed = seed
        self._setup: Setup | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the extras with the base, or with what an earlier session made from it."""
        check_sharding(
            self._method,
            is_sharded=isinstance(trainer.strategy, ModelParallelStrategy),
            is_flat=isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy),
        )
        model, step = self._model_of(pl_module), trainer.global_step
        folder = Path(trainer.default_root_dir) / "mofo"
        drawn = bars(shown=trainer.is_global_zero)
        with unnoticed(model), trainer.precision_plugin.forward_context(), drawn:
            began = beginning_of(model, folder, step, planned_steps(trainer))
            self._setup = Setup(
                base={},
                tokenizer=self._tokenizer,
                device=pl_module.device,
                seed=self._seed,
                steps=began.steps,
                batch=1,
                rows=[],
                folder=folder,
                shared=folder,
                base_name=lambda: began.base,
                is_sharded=isinstance(trainer.strategy, ModelParallelStrategy),
                is_base=step == 0,
            )
            for part in self._method.extras:
                part.prepare(model, self._setup)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add the gradients of what the extras add to the loss, and let them change the gradients."""
        assert self._setup is not None, "a step before the training began"
        model, computing = self._model_of(pl_module), trainer.precision_plugin.forward_context
        with torch.enable_grad():
            add_gradients(self._method.extras, model, trainer.global_step, self._setup, computing)

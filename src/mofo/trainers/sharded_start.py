"""Extras of a method are prepared once a model is spread over processes: only then can it compute."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from mofo.errors import UserError
from mofo.files import write_text
from mofo.processes import from_first, rank
from mofo.trainers.watch import unnoticed, weights_digest

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from mofo.methods.hooks import MethodHooks

BASE_NAME = "sharded_base"
"""File with the name of the base that a sharded training began with."""


class ShardedStartCallback(TrainerCallback):
    """Prepare the extras of a trainer whose model FSDP2 spreads, in all processes together.

    Elsewhere they are prepared when the trainer gets its method, with the model that it was made with. Here that model
    may have no weights yet (accelerate loads them in one process alone), may not fit one GPU, and would compute on the
    CPU. A resumed training has loaded its checkpoint by then, so that the base cannot be told by its weights any more:
    its name is kept beside what was made from it.

    Args:
        trainer: A trainer with a method.
    """

    def __init__(self, trainer: MethodHooks) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prepare the extras.

        Raises:
            UserError: The training is resumed in another folder than that in which it began, or with other settings.
        """
        trainer, model, step = self.trainer, kwargs["model"], state.global_step
        with unnoticed(model):
            name = self._base_name(model, step)
            trainer.trained = model
            trainer.setup = replace(trainer.setup, device=args.device, base_name=lambda: name, is_base=step == 0)
            for part in trainer.method.extras:
                part.prepare(model, trainer.setup)

    def _base_name(self, model: Any, step: int) -> str:
        """Return a name for the base, which the model still is unless it has been trained for some steps."""
        file = self.trainer.setup.folder / BASE_NAME
        if step:
            name = from_first(file.read_text(encoding="utf-8") if file.is_file() else "")
            if not name:
                raise UserError(
                    f"The training cannot go on: {file}, which names its base, is not there; resume in the folder in "
                    "which it began, or start anew."
                )
            return name
        name = weights_digest(model)[:16]
        if rank() == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, name)
        return name

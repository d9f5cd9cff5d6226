"""The end of a training as the parts of its method want it: moved back towards the base, for instance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from mofo.trainers.forgetting import ForgettingCallback

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from mofo.methods.hooks import MethodHooks


class EndCallback(TrainerCallback):
    """Change the trained model as the parts of its trainer's method want it, once the training has ended.

    That is after the last checkpoint, which therefore has the weights as they were trained, as a resumed training needs
    them. What the trainer saves afterwards are the changed ones. What measures forgetting measures these again.

    Args:
        trainer: A trainer with a method.
    """

    def __init__(self, trainer: MethodHooks) -> None:
        self.trainer = trainer

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Change the model, and log with what settings and what is forgotten now."""
        trainer = self.trainer
        logs: dict[str, Any] = {}
        for part in trainer.method.parts:
            chosen = next(part.after_training(trainer.trained, trainer.setup), {})
            logs |= {f"{part.name}/{name}": value for name, value in chosen.items()}
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, ForgettingCallback):
                logs |= callback.measure_changed_end(kwargs["model"], state)
        trainer.log(logs)

"""Extras of a method are prepared once a model is spread over processes: only then can it compute."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from mofo.measure.progress import bars
from mofo.trainers.beginning import beginning_of
from mofo.trainers.watch import unnoticed

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from mofo.methods.hooks import MethodHooks


class ShardedStartCallback(TrainerCallback):
    """Prepare the extras of a trainer whose model FSDP2 spreads, in all processes together.

    Elsewhere they are prepared when the trainer gets its method, with the model that it was made with. Here that model
    may have no weights yet (accelerate loads them in one process alone), may not fit one GPU, and would compute on the
    CPU. A resumed training has loaded its checkpoint by then.

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
        with unnoticed(model), bars(shown=state.is_world_process_zero):
            began = beginning_of(model, trainer.setup.folder, step, state.max_steps)
            trainer.trained = model
            trainer.setup = replace(
                trainer.setup,
                device=args.device,
                steps=began.steps,
                base_name=lambda: began.base,
                is_base=step == 0,
            )
            for part in trainer.method.extras:
                part.prepare(model, trainer.setup)

"""What a model forgets while it is trained, in the logs of the trainers of transformers and trl."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase, ProcessorMixin

from mofo.results import TrainingStep
from mofo.trainers.reported import ReportedCallback
from mofo.trainers.watch import EVERY, PROBES, Watch

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments


class ForgettingCallback(ReportedCallback):
    """Measure what a model has forgotten, along its training, for whatever `report_to` names.

    The base is measured when the training begins, or read from the cache if these weights have been measured before.
    After every `every` steps and after the last, the model is measured against it. `forgotten/PROBE` is the change
    from the base, in the unit of the probe; positive is worse. `forgotten/divergence` is KL(base ‖ model) in nats per
    token, `forgotten/text` the rise of the loss on general English. The same goes into `forgetting.json` in
    `output_dir`, with standard errors; `mofo report OUTPUT_DIR` draws it.

    With any optimizer and any trainer of transformers and trl (SFT, DPO, GRPO, KTO, ...). With adapters of peft the
    base is the model with them switched off. With several processes (DDP, FSDP2) each measures its share. The training
    is the same to the bit with and without the callback: modes and random states are restored.

    So that a resumed training compares with the same base, what the probes have computed from it goes into `output_dir`
    where checkpoints are saved (`forgetting_base_RANK.safetensors`; the base's logits on 2048 tokens, 400 MB for
    SmolLM2 in float32). With adapters there is no need.

    Args:
        probes: What to measure, as for `mofo measure`: `divergence`, `text`, `choice`, and files of one's own.
        every: Steps between two measurements.
        tokenizer: The model's tokenizer, if the trainer was not given it as `processing_class`.
        seed: Seed of what the probes draw.

    Examples:
        >>> trainer = SFTTrainer(...)
        >>> ForgettingCallback.attach(trainer, probes=["divergence", "text"], every=50)
        >>> trainer.train()

    Raises:
        UserError: A probe is unknown or cannot be made.
        ValueError: When the training begins, if there is no tokenizer, or if the callback was passed as
            `callbacks=[ForgettingCallback()]` although there is something to report to: the reporting callbacks come
            before it and would not see its values.
    """

    def __init__(
        self,
        probes: Sequence[str] = PROBES,
        every: int = EVERY,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._watch = Watch(probes, every, seed=seed)
        self._tokenizer = tokenizer

    @classmethod
    def attach(
        cls,
        trainer: Trainer,
        probes: Sequence[str] = PROBES,
        every: int = EVERY,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        seed: int = 0,
    ) -> ForgettingCallback:
        """Add a callback to a trainer, before those that report: each sees what the earlier ones have logged."""
        return cls(probes, every, tokenizer=tokenizer, seed=seed).put_first(trainer)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the base, or read what was measured of it."""
        self.check_place(args)
        self.values = {}
        self._watch.begin(
            kwargs["model"],
            self._tokenizer or _tokenizer_of(kwargs["processing_class"]),
            Path(str(args.output_dir)),
            step=state.global_step,
            resumable=args.save_strategy != "no" and not args.save_only_model,
            precision="bf16" if args.bf16 else "fp16" if args.fp16 else "",
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure the model where a measurement is due, and have the trainer log it."""
        if self._watch.is_due(state.global_step, state.max_steps):
            self.values = self._watch.measure(kwargs["model"], state.global_step)
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the values to a training log, and write the file."""
        measured = bool(self.values)
        super().on_log(args, state, control, logs, **kwargs)
        if measured and state.is_world_process_zero:
            self._watch.write(_training(state))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure a training that was ended early, and write the file."""
        if self._watch.is_due(state.global_step, state.global_step):
            self._watch.measure(kwargs["model"], state.global_step)
        if state.is_world_process_zero:
            self._watch.write(_training(state))


def _training(state: TrainerState) -> list[TrainingStep]:
    """Return the training log."""
    return [
        TrainingStep(step=int(entry["step"]), loss=entry["loss"], learning_rate=entry.get("learning_rate"))
        for entry in state.log_history
        if "loss" in entry
    ]


def _tokenizer_of(processing: Any) -> PreTrainedTokenizerBase:
    """Return the tokenizer that a trainer was given, by itself or in a processor."""
    if isinstance(processing, ProcessorMixin):
        processing = processing.tokenizer
    if not isinstance(processing, PreTrainedTokenizerBase):
        raise ValueError(
            "ForgettingCallback needs the model's tokenizer: give the trainer processing_class=tokenizer, or the "
            "callback tokenizer=tokenizer"
        )
    return processing

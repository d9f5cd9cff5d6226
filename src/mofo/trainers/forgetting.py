"""What a model forgets while it is trained, in the logs of the trainers of transformers and trl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase, ProcessorMixin

from mofo.forgetting import Kept
from mofo.results import TrainingStep
from mofo.trainers.budget import Way
from mofo.trainers.keeper import USED, USED_BEFORE
from mofo.trainers.reported import ReportedCallback
from mofo.trainers.watch import PROBES
from mofo.trainers.watched import WatchedTraining

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, Trainer, TrainerControl, TrainerState, TrainingArguments


class ForgettingCallback(ReportedCallback):
    """Measure what a model has forgotten, along its training, for whatever `report_to` names.

    The base is measured when the training begins, or read from the cache if these weights have been measured before.
    Along the training and after its last step, the model is measured against it. `forgotten/PROBE` is the change from
    the base, in the unit of the probe; positive is worse. `forgotten/divergence` is KL(base ‖ model) in nats per token,
    `forgotten/text` the rise of the loss on general English. The same goes into `forgetting.json` in `output_dir`, with
    standard errors; `mofo report OUTPUT_DIR` draws it.

    Measurements along the training take at most 2 % of its time: after 50 steps, and then after as many multiples of 50
    as that allows. With `every` they come after each so many steps, whatever that costs.

    With any optimizer and any trainer of transformers and trl (SFT, DPO, GRPO, KTO, ...). With adapters of peft the
    base is the model with them switched off. With several processes (DDP, FSDP2) each measures its share. The training
    is the same to the bit with and without the callback: modes and random states are restored.

    So that a resumed training compares with the same base, what the probes have computed from it goes into `output_dir`
    where checkpoints are saved (`forgetting_base_RANK.safetensors`; the base's logits on 2048 tokens, 400 MB for
    SmolLM2 in float32). With adapters there is no need.

    With `budget` the training is held within a bound until its end, by default by pulling its last weights back along
    the line from the base (`mofo.trainers.budget.Budget` has the ways). For full fine-tuning that takes a copy of the
    trained weights in host memory, a second one while they are pulled back, and one in `output_dir` where checkpoints
    are saved (`budget_base_RANK.safetensors`); for LoRA none. `budget/used` in the logs is the share of the budget that
    is used, `budget/kept` at the end the share of the change that was kept.

    Args:
        probes: What to measure, as for `mofo measure`: `divergence`, `text`, `choice`, and files of one's own.
        every: Steps between two measurements; by default as the cost allows, and 50 where `way` acts along the
            training, which must not depend on time.
        tokenizer: The model's tokenizer, if the trainer was not given it as `processing_class`.
        seed: Seed of what the probes draw.
        budget: By how much probes may get worse until the end, in their units: `{"divergence": 0.05}`. They are
            measured even if `probes` does not name them.
        way: How the budget is held: `pull`, `stop`, `slow`, `stop-pull` or `slow-pull`.
        origin: The base's weights by name, if the caller keeps a copy of them anyway.

    Attributes:
        kept: How the budget was held; None before the end, and without a budget.

    Examples:
        >>> trainer = SFTTrainer(...)
        >>> ForgettingCallback.attach(trainer, probes=["divergence", "text"], budget={"divergence": 0.05})
        >>> trainer.train()

    Raises:
        UserError: A probe or the budget cannot be used; when the training begins, if the budget cannot be held.
        ValueError: When the training begins, if there is no tokenizer, or if the callback was passed as
            `callbacks=[ForgettingCallback()]` although there is something to report to: the reporting callbacks come
            before it and would not see its values.
    """

    def __init__(
        self,
        probes: Sequence[str] = PROBES,
        every: int | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        seed: int = 0,
        budget: Mapping[str, float] | None = None,
        way: Way = "pull",
        origin: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self._training = WatchedTraining(probes, every, seed=seed, budget=budget, way=way, origin=origin)
        self._tokenizer = tokenizer

    @property
    def kept(self) -> Kept | None:
        """How the budget was held; None before the end, and without a budget."""
        return self._training.kept

    @classmethod
    def attach(
        cls,
        trainer: Trainer,
        probes: Sequence[str] = PROBES,
        every: int | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        seed: int = 0,
        budget: Mapping[str, float] | None = None,
        way: Way = "pull",
    ) -> ForgettingCallback:
        """Add a callback to a trainer, before those that report: each sees what the earlier ones have logged."""
        return cls(probes, every, tokenizer=tokenizer, seed=seed, budget=budget, way=way).put_first(trainer)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the base, or read what was measured of it."""
        self.check_place(args)
        self.values = {}
        self._training.begin(
            kwargs["model"],
            self._tokenizer or _tokenizer_of(kwargs["processing_class"]),
            Path(str(args.output_dir)),
            step=state.global_step,
            resumable=args.save_strategy != "no" and not args.save_only_model,
            precision="bf16" if args.bf16 else "fp16" if args.fp16 else "",
            used=_used_so_far(state),
        )

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Brake a step, if the budget asks for it."""
        self._training.before_step(kwargs["optimizer"])

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Release the brake."""
        self._training.after_step()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure the model where a measurement is due; end the training if nothing may move any more, and hold it."""
        if self._training.is_due(state.global_step, state.max_steps):
            self._log(self._training.measure(kwargs["model"], state.global_step), control)
        if self._training.has_ended:
            control.should_training_stop = True
        if control.should_training_stop or state.global_step >= state.max_steps:
            self._log(self._training.end(kwargs["model"], state.global_step, state.max_steps), control)

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
            self._training.write(_log_of(state))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure a training that was ended early, hold the budget there, too, and write the file."""
        if args.load_best_model_at_end:  # the weights are those of another step
            self._training.measure_other_end(kwargs["model"], state.global_step)
        self._log(self._training.end(kwargs["model"], state.global_step, state.max_steps), control)
        if state.is_world_process_zero:
            self._training.write(_log_of(state))

    def measure_changed_end(self, model: PreTrainedModel, state: TrainerState) -> dict[str, float]:
        """Measure the last weights again, which were changed after the last step, and write the file.

        Returns:
            What is to be logged; nothing where nothing is measured.
        """
        if not self._training.watch.is_ready:
            return {}
        values = self._training.measure(model, state.global_step)
        if state.is_world_process_zero:
            self._training.write(_log_of(state))
        return values

    def _log(self, values: dict[str, float], control: TrainerControl) -> None:
        """Have the trainer log values, if there are any."""
        if values:
            self.values = values
            control.should_log = True


def _used_so_far(state: TrainerState) -> float:
    """Return the share of a budget that the training had used so far, by the log that checkpoints hold."""
    last: dict[str, Any] = next((entry for entry in reversed(state.log_history) if USED in entry), {})
    return float(last.get(USED_BEFORE, last.get(USED, 0.0)))


def _log_of(state: TrainerState) -> list[TrainingStep]:
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

"""What a model forgets while it is trained, in the logs of the trainers of transformers and trl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase, ProcessorMixin

from mofo.errors import UserError
from mofo.forgetting import Kept
from mofo.results import TrainingStep
from mofo.trainers.budget import Budget, Way
from mofo.trainers.keeper import USED, USED_BEFORE, Keeper
from mofo.trainers.reported import ReportedCallback
from mofo.trainers.watch import EVERY, PROBES, Watch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, Trainer, TrainerControl, TrainerState, TrainingArguments


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

    With `budget` the training is held within a bound until its end, by default by pulling its last weights back along
    the line from the base (`mofo.trainers.budget.Budget` has the ways). For full fine-tuning that takes a copy of the
    trained weights in host memory, a second one while they are pulled back, and one in `output_dir` where checkpoints
    are saved (`budget_base_RANK.safetensors`); for LoRA none. `budget/used` in the logs is the share of the budget that
    is used, `budget/kept` at the end the share of the change that was kept.

    Args:
        probes: What to measure, as for `mofo measure`: `divergence`, `text`, `choice`, and files of one's own.
        every: Steps between two measurements.
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
        >>> ForgettingCallback.attach(trainer, probes=["divergence", "text"], every=50, budget={"divergence": 0.05})
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
        every: int = EVERY,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        seed: int = 0,
        budget: Mapping[str, float] | None = None,
        way: Way = "pull",
        origin: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self._watch = Watch(list(dict.fromkeys([*probes, *(budget or ())])), every, seed=seed)
        self._keeper = None if budget is None else Keeper(Budget(budget, way), self._watch, origin)
        self._tokenizer = tokenizer
        self._held = -1
        self.kept: Kept | None = None

    @classmethod
    def attach(
        cls,
        trainer: Trainer,
        probes: Sequence[str] = PROBES,
        every: int = EVERY,
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
        self.values, self.kept, self._held = {}, None, -1
        model, folder, step = kwargs["model"], Path(str(args.output_dir)), state.global_step
        resumable = args.save_strategy != "no" and not args.save_only_model
        at_base = None
        if self._keeper is not None:
            at_base = self._keeper.begin(model, folder, step=step, resumable=resumable, used=_used_so_far(state))
        self._watch.begin(
            model,
            self._tokenizer or _tokenizer_of(kwargs["processing_class"]),
            folder,
            step=step,
            resumable=resumable,
            precision="bf16" if args.bf16 else "fp16" if args.fp16 else "",
            at_base=at_base,
        )
        if self._keeper is not None and not self._watch.is_ready:
            raise UserError(
                f"The budget cannot be held: what was measured of the base is not in {folder}; resume in the folder in "
                "which the training began, or start anew."
            )
        if self._keeper is not None and self._watch.kept is not None and self._watch.kept.step == step:
            self.kept, self._held = self._watch.kept, step  # the checkpoint is of the end that was held

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Brake a step, if the budget asks for it."""
        if self._keeper is not None:
            self._keeper.before_step(kwargs["optimizer"])

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Release the brake."""
        if self._keeper is not None:
            self._keeper.after_step()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure the model where a measurement is due; end the training if nothing may move any more, and hold it."""
        if self._watch.is_due(state.global_step, state.max_steps):
            self._measure(kwargs["model"], state, control)
        if self._keeper is not None and self._keeper.has_ended:
            control.should_training_stop = True
        if control.should_training_stop or state.global_step >= state.max_steps:
            self._hold(kwargs["model"], state, control)

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
        """Measure a training that was ended early, hold the budget there, too, and write the file."""
        if args.load_best_model_at_end and self._keeper is not None:  # the weights are those of another step
            self._watch.measure(kwargs["model"], state.global_step)
            self._held = -1
        self._hold(kwargs["model"], state, control)
        if state.is_world_process_zero:
            self._watch.write(_training(state))

    def _measure(self, model: PreTrainedModel, state: TrainerState, control: TrainerControl) -> None:
        """Measure the model, and have the trainer log it."""
        self.values = self._watch.measure(model, state.global_step)
        control.should_log = True
        if self._keeper is not None:
            self.values = self._keeper.measured(self.values)

    def _hold(self, model: PreTrainedModel, state: TrainerState, control: TrainerControl) -> None:
        """Measure the end of a training, if that has not been done, and hold the budget there."""
        step = state.global_step
        if self._watch.is_due(step, step):
            self._measure(model, state, control)
        if self._keeper is not None and self._held != step:
            self._held = step
            self.kept, self.values = self._keeper.hold(model, step, state.max_steps)


def _used_so_far(state: TrainerState) -> float:
    """Return the share of a budget that the training had used so far, by the log that checkpoints hold."""
    last: dict[str, Any] = next((entry for entry in reversed(state.log_history) if USED in entry), {})
    return float(last.get(USED_BEFORE, last.get(USED, 0.0)))


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

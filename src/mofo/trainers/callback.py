"""What MoFO does, in the logs of the trainers of transformers and trl."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save
from transformers import TrainerCallback

from mofo import MoFO
from mofo.files import write_bytes
from mofo.optim.rule.blocks import block_size, selected_count
from mofo.trainers.reported import ReportedCallback
from mofo.trainers.sample import Sample, sum_over_processes

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments


class MoFOCallback(ReportedCallback):
    """Add to each training log how much of the model MoFO moves, for whatever `report_to` names.

    - `mofo/selected`: share of the entries that MoFO selects, Σk / Σn over the parameters with a gradient.
    - `mofo/moved`: share of them whose value changed in this step. It is smaller than `mofo/selected` where bfloat16
      rounds an update away or the learning rate is 0.
    - `mofo/overlap`: of the entries that changed in this step, the share that had changed in the step before, too.
      Left out if none did, or if the step before was of an earlier session.
    - `mofo/distance`: L2 distance of the trained parameters from those at the beginning of the training.

    `mofo/selected` is exact, except for entries with a momentum that is not finite, which move in any case. The other
    three are estimates from a sample (`mofo.trainers.sample`), unless a process has fewer entries than the sample. On
    SmolLM2-135M, with one entry of 257 in the sample, they were within 2 % of the exact values
    (`benchmarks/callback_cost.py`). Only the logging step and the one before it are sampled; with
    `logging_strategy="epoch"`, whose last step is not known beforehand, every step.

    The sample of the first weights goes into each checkpoint (`mofo_base_RANK.safetensors`, about 2 MB), because a
    resumed training cannot see them any more. It is looked for in the checkpoint in `output_dir`; where it is not
    there, or does not fit because the number of processes changed, `mofo/distance` is left out with a warning.

    Works with gradient accumulation and with several processes, whose parameters may be copies (DDP) or shards
    (`DTensor`): the processes add up three sums at a logging step.

    Examples:
        >>> trainer = SFTTrainer(..., optimizer_cls_and_kwargs=(MoFO, {"lr": 1e-5}))
        >>> MoFOCallback.attach(trainer)
        >>> trainer.train()

    Raises:
        TypeError: When the training begins, if its optimizer is not MoFO.
        ValueError: When the training begins, if the callback was passed as `callbacks=[MoFOCallback()]` although
            there is something to report to: the reporting callbacks come before it and would not see its values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before: Tensor | None = None  # the sample before this step
        self.moved_before: Tensor | None = None  # which entries of the sample moved in the step before

    @classmethod
    def attach(cls, trainer: Trainer) -> MoFOCallback:
        """Add a callback to a trainer, before those that report: each sees what the earlier ones have logged."""
        return cls().put_first(trainer)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the optimizer, choose the sample, and read or restore the weights that distance is measured from."""
        self.optimizer = kwargs["optimizer"].optimizer  # accelerate wraps it
        if not isinstance(self.optimizer, MoFO):
            raise TypeError(
                f"MoFOCallback reports what MoFO does, but the optimizer is {type(self.optimizer).__name__}: pass "
                "optimizer_cls_and_kwargs=(MoFO, {...}) to the trainer, or leave the callback out"
            )
        self.check_place(args)
        self.sample = Sample([p for group in self.optimizer.param_groups for p in group["params"]])
        self.base = self.sample.read() if state.global_step == 0 else self._saved_base(_base_file(args, state))
        self.before = self.moved_before = None
        self.values = {}

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read the sample before the step."""
        step = state.global_step + 1
        if _may_log(args, state, step) or _may_log(args, state, step + 1):
            self.before = self.sample.read()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compare the sample with that before the step."""
        if self.before is None:
            self.moved_before = None
            return
        after = self.sample.read()
        moved = after != self.before
        if _may_log(args, state, state.global_step + 1):
            self.values = self._measure(after, moved)
        self.before, self.moved_before = None, moved

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the sample of the first weights into the checkpoint that was just written."""
        if self.base is not None and not args.save_only_model:
            write_bytes(_base_file(args, state), save({"base": self.base}))

    def _measure(self, after: Tensor, moved: Tensor) -> dict[str, float]:
        """Return the values of a step from the sample after it, and from which of its entries moved."""
        k = n = 0
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    k += group["blocks"] * selected_count(group["fraction"], block_size(p, group["blocks"]))
                    n += p.numel()
        again = moved & self.moved_before if self.moved_before is not None else torch.zeros_like(moved)
        squares = (after - self.base).square_() if self.base is not None else torch.zeros_like(after)
        number, repeated, square = self.sample.totals(moved, again, squares)

        values = {"mofo/selected": k / max(n, 1), "mofo/moved": number / max(n, 1)}
        if self.moved_before is not None and number:
            values["mofo/overlap"] = repeated / number
        if self.base is not None:
            values["mofo/distance"] = math.sqrt(square)
        return values

    def _saved_base(self, file: Path) -> Tensor | None:
        """Return the sample of the first weights from a checkpoint; None, with a warning, if a process lacks it."""
        base = load_file(file)["base"] if file.is_file() else torch.empty(0)
        fits = base.shape == self.sample.weights.shape
        if sum_over_processes(torch.tensor([float(not fits)], device=self.sample.weights.device)).item():
            warnings.warn(
                f"mofo/distance is left out of the logs: the first weights are not in {file}, or are of another "
                "number of processes",
                stacklevel=2,
            )
            return None
        return base.to(self.sample.weights.device)


class LastStepIsLogged(TrainerCallback):
    """Have a trainer that logs every few steps log the last one as well, and so a training of few steps at all."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a log after the last step."""
        if args.logging_strategy == "steps" and state.global_step >= state.max_steps:
            control.should_log = True


def _may_log(args: TrainingArguments, state: TrainerState, step: int) -> bool:
    """Return whether the trainer may log after a step, as far as that can be known before it."""
    if args.logging_strategy == "steps":
        often = step % state.logging_steps == 0 or (step == 1 and args.logging_first_step)
        return often or step == state.max_steps
    return args.logging_strategy == "epoch"  # after the last step of an epoch, which only the trainer knows


def _base_file(args: TrainingArguments, state: TrainerState) -> Path:
    folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
    return folder / f"mofo_base_{args.process_index}.safetensors"

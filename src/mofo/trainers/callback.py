"""What MoFO does at each logging step, in the logs of the trainers of transformers and trl."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save
from transformers import TrainerCallback

from mofo import MoFO
from mofo.files import write_bytes
from mofo.optim.dtensor import local
from mofo.optim.rule.blocks import block_size, selected_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

SAMPLE = 2**19
"""About how many entries of the model each process looks at; a model with fewer is looked at entirely."""

RUN = 16
"""Entries that are read in one go: 64 bytes of float32."""


class MoFOCallback(TrainerCallback):
    """Adds to each training log how much of the model MoFO moves, for whatever ``report_to`` names.

    ======================  =======================================================================================
    ``mofo/selected``       share of the entries that MoFO selects: Σk / Σn over the parameters with a gradient
    ``mofo/moved``          share of them whose value changed in this step. It is smaller than ``selected`` where
                            bfloat16 rounds an update away or the learning rate is 0
    ``mofo/overlap``        of the entries that changed in this step, the share that had changed in the step before,
                            too; left out if none did or the step before was not of this session
    ``mofo/distance``       L2 distance of the trained parameters from those at the beginning of the training
    ======================  =======================================================================================

    ``selected`` is exact (but for entries with a momentum that is not finite, which move in any case). The other
    three are estimates from a sample, unless a process has fewer than :data:`SAMPLE` entries: runs of :data:`RUN`
    entries at even distances in every tensor, scaled up tensor by tensor; tensors shorter than one distance are taken
    whole. On SmolLM2-135M, one entry of 257 in the sample, they were within 2 % of the exact values
    (``benchmarks/callback_cost.py``). Only the logging step and the one before it are looked at; with
    ``logging_strategy="epoch"``, whose last step nobody knows beforehand, every step.

    The sample of the first weights goes into each checkpoint (``mofo_base_RANK.safetensors``, about 2 MB), because a
    resumed training cannot see them any more. It is looked for in the checkpoint in ``output_dir``; where it is not
    there, or does not fit because the number of processes changed, ``distance`` is left out with a warning.

    Works with gradient accumulation and with several processes, whose parameters may be copies (DDP) or shards
    (``DTensor``): the processes add up three sums a logging step.

    Example:
        >>> trainer = SFTTrainer(..., optimizer_cls_and_kwargs=(MoFO, {"lr": 1e-5}))
        >>> MoFOCallback.attach(trainer)
        >>> trainer.train()

    Raises:
        TypeError: at the beginning of the training, if its optimizer is not MoFO.
        ValueError: then, if it was passed as ``callbacks=[MoFOCallback()]`` although there is something to report to:
            the reporting callbacks come before it and would not see its values.
    """

    def __init__(self) -> None:
        self.first = False
        self.before: Tensor | None = None  # the sample before this step
        self.moved_before: Tensor | None = None  # which entries of the sample moved in the step before
        self.values: dict[str, float] = {}

    @classmethod
    def attach(cls, trainer: Trainer) -> MoFOCallback:
        """Adds the callback to a trainer, before those that report: each sees what the earlier ones have logged."""
        callback = cls()
        callback.first = True
        trainer.callback_handler.callbacks.insert(0, callback)
        return callback

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Checks the optimizer, chooses the sample and reads, or finds, the weights to measure the distance from."""
        self.optimizer = kwargs["optimizer"].optimizer  # accelerate wraps it
        if not isinstance(self.optimizer, MoFO):
            raise TypeError(
                f"MoFOCallback reports what MoFO does, but the optimizer is {type(self.optimizer).__name__}: pass "
                "optimizer_cls_and_kwargs=(MoFO, {...}) to the trainer, or leave the callback out"
            )
        if args.report_to and not self.first:
            raise ValueError(
                f"MoFOCallback must come before the callbacks that report to {', '.join(args.report_to)}: use "
                "MoFOCallback.attach(trainer) instead of callbacks=[MoFOCallback()]"
            )
        self.sample = _Sample([p for group in self.optimizer.param_groups for p in group["params"]])
        self.base = self.sample.read() if state.global_step == 0 else self._saved_base(_base_file(args, state))
        self.before = self.moved_before = None
        self.values = {}

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Reads the sample before the step."""
        step = state.global_step + 1
        if _may_log(args, state, step) or _may_log(args, state, step + 1):
            self.before = self.sample.read()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compares the sample with that before the step."""
        if self.before is None:
            self.moved_before = None
            return
        after = self.sample.read()
        moved = after != self.before
        if _may_log(args, state, state.global_step + 1):
            self.values = self._measure(after, moved)
        self.before, self.moved_before = None, moved

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds the values to the training logs: to those that the later callbacks see, and to the history."""
        if logs and "loss" in logs:
            logs.update(self.values)
            state.log_history[-1].update(self.values)
            self.values = {}

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Puts the sample of the first weights into the checkpoint that was just written."""
        if self.base is None or args.save_only_model:
            return
        write_bytes(_base_file(args, state), save({"base": self.base}))

    def _measure(self, after: Tensor, moved: Tensor) -> dict[str, float]:
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
        base = load_file(file)["base"] if file.is_file() else torch.empty(0)
        fits = base.shape == self.sample.weights.shape
        if _sum_over_processes(torch.tensor([float(not fits)], device=self.sample.weights.device)).item():
            warnings.warn(
                f"mofo/distance is left out of the logs: the first weights are not in {file}, or of another number of "
                "processes",
                stacklevel=2,
            )
            return None
        return base.to(self.sample.weights.device)


class _Sample:
    """A sample of the entries of the parameters, and how many entries each of them stands for.

    Args:
        params: the parameters of the optimizer: plain tensors, the same on each process, or ``DTensor``, of which
            a process looks at its own part.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = params
        own = [local(p.detach()) for p in params]
        one_in = math.ceil(sum(p.numel() for p in own) / SAMPLE)
        # Odd, so that the runs do not fall into the same columns of matrices, whose width is a power of two.
        self.period = RUN * one_in + 1 if one_in > 1 else math.inf
        parts = [_runs(p, self.period) for p in own]
        self.shapes = [part.shape for part in parts]
        self.dtype = torch.float32
        for p in own:
            self.dtype = torch.promote_types(self.dtype, p.dtype)

        device = own[0].device
        sizes = torch.tensor([p.numel() for p in own], dtype=self.dtype, device=device)
        copies = _sum_over_processes(sizes.clone()) / torch.tensor([p.numel() for p in params], device=device)
        taken = torch.tensor([part.numel() for part in parts], device=device)
        # (entries of the sample,): their sum over all processes is the number of entries of the model
        self.weights = (sizes / taken.clamp(min=1) / copies).repeat_interleave(taken)

    def read(self) -> Tensor:
        """The entries of the sample as they are now, (entries of the sample,), at least float32."""
        out = torch.empty_like(self.weights)
        pieces = out.split([shape.numel() for shape in self.shapes])
        for p, piece, shape in zip(self.params, pieces, self.shapes, strict=True):
            piece.view(shape).copy_(_runs(local(p.detach()), self.period))
        return out

    def totals(self, *values: Tensor) -> list[float]:
        """Estimates of the sums over all entries of the model; each of ``values`` is (entries of the sample,)."""
        sums = torch.stack([(self.weights * value).sum() for value in values])
        return _sum_over_processes(sums).tolist()


def _runs(tensor: Tensor, period: float) -> Tensor:
    """The first :data:`RUN` of every ``period`` entries, (runs, RUN), or all of a tensor that has fewer, (n,)."""
    n = tensor.numel()
    if n < period:
        return tensor.reshape(-1)
    runs = n // int(period)
    return tensor.reshape(-1)[: runs * int(period)].view(runs, -1)[:, :RUN]


def _sum_over_processes(values: Tensor) -> Tensor:
    """The sum over all processes, in place; their number is 1 where torch.distributed is not in use."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values


def _may_log(args: TrainingArguments, state: TrainerState, step: int) -> bool:
    """Whether the trainer logs after this step, as far as that is known before."""
    if args.logging_strategy == "steps":
        return step % state.logging_steps == 0 or (step == 1 and args.logging_first_step)
    return args.logging_strategy == "epoch"  # after the last step of an epoch, which only the trainer knows


def _base_file(args: TrainingArguments, state: TrainerState) -> Path:
    folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
    return folder / f"mofo_base_{args.process_index}.safetensors"

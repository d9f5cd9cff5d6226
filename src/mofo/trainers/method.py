"""Any method of the workbench in a trainer of transformers or trl that has been made already."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.training_args import OptimizerNames

from mofo.errors import UserError
from mofo.measure.progress import bars
from mofo.methods.adamw import AdamW
from mofo.methods.hooks import MethodHooks
from mofo.methods.method import Entry, Method, expand, names_optimizer
from mofo.methods.part import OptimizerPart, Part, Setup
from mofo.trainers.end import EndCallback
from mofo.trainers.reported import ReportedCallback
from mofo.trainers.sharded_start import ShardedStartCallback
from mofo.trainers.watch import weights_digest

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from transformers import Trainer

COMPARISON_ONLY = ("rows", "weights")
"""Hooks that only a comparison calls: it owns the rows, and measures merged weights."""


def use_method(trainer: Trainer, entry: Entry, settings: Mapping[str, Any] | None = None) -> Method:
    """Let a trainer train by a method.

    `self-distill`, which names no optimizer, is added to the one that the trainer has, whatever it is. With
    `mofo+self-distill` the method's optimizer takes its place, with the trainer's learning rate and weight decay. A
    plain `adamw` is the trainer's own, with its betas, epsilon and parameters that do not decay.

    The model as the trainer has it now is the base that extras keep to. To resume a training, therefore, make the
    trainer with the model that it began with: `trainer.train(resume_from_checkpoint=...)` loads the checkpoint.

    Args:
        trainer: A trainer of transformers or trl that has not begun to train.
        entry: The method, as a recipe writes it: `mofo+self-distill`, or a mapping from parts to settings.
        settings: Values for every part that has a setting of that name, or for one part: `self-distill.weight`.

    Returns:
        The method; AdamW stands for the trainer's own optimizer.

    Raises:
        UserError: The method is unknown, needs rows or adapters of its own, stands for several, does not go with the
            trainer's sharding, or names an optimizer where the trainer was given another.

    Examples:
        >>> trainer = SFTTrainer(model, args=args, train_dataset=dataset)
        >>> use_method(trainer, "self-distill")
        >>> trainer.train()
    """
    method = single_method(entry, settings or {})
    own = {"learning_rate": trainer.args.learning_rate, "weight_decay": trainer.args.weight_decay}
    method = Method(method.optimizer.model_copy(update=own), method.extras)
    is_named = names_optimizer(entry)
    if is_named:
        _check_no_other_optimizer(trainer, method)
    keeps_own = not is_named or is_plain_adamw(method.optimizer)
    _attach(trainer, method, MethodHooks if keeps_own else _OwnOptimizer)
    return method


def _check_no_other_optimizer(trainer: Trainer, method: Method) -> None:
    """Check that a trainer was not given an optimizer of its own beside the one that a method names.

    Raises:
        UserError: It was.
    """
    own: Any = trainer.optimizer or (trainer.optimizer_cls_and_kwargs or [None])[0]
    if own is None and trainer.args.optim in ("adamw_torch", "adamw_torch_fused"):
        return
    name = OptimizerNames(trainer.args.optim).value if own is None else getattr(own, "__name__", type(own).__name__)
    extras = "+".join(part.name for part in method.extras)
    raise UserError(
        f"The trainer has the optimizer {name}, and the method names {method.optimizer.name}: leave one of the two out"
        + (f"; {extras} alone keeps the trainer's." if extras else ".")
    )


def is_plain_adamw(optimizer: OptimizerPart) -> bool:
    """Check whether an optimizer is torch's AdamW with nothing changed, which trainers make themselves."""
    return optimizer == AdamW(learning_rate=optimizer.learning_rate, weight_decay=optimizer.weight_decay)


def single_method(entry: Entry, settings: Mapping[str, Any]) -> Method:
    """Return the one method that an entry stands for, and check that it goes with any trainer.

    Raises:
        UserError: It is unknown, stands for several, or has a part that only a comparison can use.
    """
    method, *others = expand(entry, settings)
    if others:
        raise UserError(f"{entry} stands for {len(others) + 1} methods, expected one: give each setting one value.")
    check_any_trainer(method)
    return method


def check_any_trainer(method: Method) -> None:
    """Check that a method goes with any trainer.

    Raises:
        UserError: It has a part that only a comparison can use, or one that makes several models of the end.
    """
    for part in method.extras:
        if part.remembers_tasks:
            raise UserError(
                f"{part.name} is for mofo compare alone: it keeps what earlier tasks of a recipe taught, and a trainer "
                "knows one."
            )
        hooks = [hook for hook in COMPARISON_ONLY if getattr(type(part), hook) is not getattr(Part, hook)]
        if hooks:
            raise UserError(
                f"{part.name} is for mofo compare alone: it brings rows or a model of its own, which a trainer that "
                "has been made does not take."
            )
        if part.ends > 1:
            raise UserError(
                f"{part.name} makes {part.ends} models of the end of a training, which is for mofo compare; here it is "
                "one: give each of its settings one value."
            )


def check_sharding(method: Method, *, is_sharded: bool, is_flat: bool = False) -> None:
    """Check that a method goes with the sharding of a model, before that is loaded where it is known then.

    Args:
        method: The method.
        is_sharded: Whether the parameters are spread over processes.
        is_flat: Whether they are pieces of flattened ones, as with DeepSpeed and FSDP1.

    Raises:
        UserError: It has extras that do not know how to treat such a model.
    """
    unable = [part.name for part in method.extras if is_flat or (is_sharded and not part.across_processes)]
    if unable:
        what = "flattened parameters (DeepSpeed, FSDP1)" if is_flat else "sharded parameters (FSDP2)"
        raise UserError(
            f"{', '.join(unable)} does not go with {what}: leave it out of the method, or use "
            + ("one process, DDP or FSDP2." if is_flat else "one process or DDP.")
        )


def use_extras(trainer: Trainer, method: Method) -> None:
    """Let a trainer's steps call the hooks of a method's extras; its optimizer stays as it is.

    Raises:
        UserError: The model is sharded, which the extras do not know how to treat.
    """
    _attach(trainer, method, MethodHooks)


def _attach(trainer: Trainer, method: Method, mixin: type) -> None:
    """Make a trainer one of a class with a mix-in, and give it what the hooks ask for."""
    is_fsdp2 = bool(trainer.is_fsdp_enabled and trainer.accelerator.is_fsdp2)
    is_flat = trainer.is_deepspeed_enabled or (trainer.is_fsdp_enabled and not is_fsdp2)
    check_sharding(method, is_sharded=is_fsdp2, is_flat=is_flat)
    model: Any = trainer.model
    needed = any(part.compares_with_base for part in method.extras)
    if method.extras:
        _warn_of_checkpoint(model, method)
    kept = Path(str(trainer.args.output_dir)) / "mofo"
    hooked: Any = trainer
    hooked.method = method
    hooked.setup = Setup(
        base={name: p.detach().cpu().clone() for name, p in model.named_parameters()} if needed else {},
        tokenizer=trainer.processing_class,  # type: ignore[arg-type]
        device=model.device,
        seed=trainer.args.seed,
        steps=_planned_steps(trainer),
        batch=trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps,
        rows=[],
        folder=kept,
        shared=kept,
        base_name=functools.cache(lambda: weights_digest(model)[:16]),
        is_sharded=is_fsdp2,
    )
    hooked.trained = model
    callbacks = trainer.callback_handler.callbacks
    if is_fsdp2 and method.extras:
        callbacks.insert(0, ShardedStartCallback(hooked))
    else:
        with bars(shown=trainer.is_world_process_zero()):
            for part in method.extras:
                part.prepare(model, hooked.setup)
    for callback in [callback for part in method.parts for callback in part.callbacks(hooked.setup)]:
        if isinstance(callback, ReportedCallback):
            callback.put_first(trainer)
        else:
            trainer.add_callback(callback)
    if any(type(part).after_training is not Part.after_training for part in method.parts):
        callbacks.insert(0, EndCallback(hooked))  # before those that report, which close at the end of a training
    trainer.__class__ = type(f"Method{type(trainer).__name__}", (mixin, type(trainer)), {})


def _planned_steps(trainer: Trainer) -> int | None:
    """Return the optimizer steps that a trainer is to take; None if it does not know how many rows it has."""
    args: Any = trainer.args
    if args.max_steps > 0:
        return int(args.max_steps)
    if not isinstance(trainer.train_dataset, Sized):
        return None
    passes: int = getattr(args, "num_generations", 1) * getattr(args, "num_iterations", 1)  # of a prompt, in GRPO
    rows_per_step: int = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    steps_per_epoch = math.ceil(len(trainer.train_dataset) * passes / rows_per_step)
    return math.ceil(float(args.num_train_epochs) * steps_per_epoch)


def _warn_of_checkpoint(model: Any, method: Method) -> None:
    """Say so if what is taken for the base was loaded from a checkpoint of a training."""
    folder = Path(str(getattr(model.config, "name_or_path", "")))
    if (folder / "trainer_state.json").is_file():
        warnings.warn(
            f"{method.name} takes {folder}, a checkpoint of a training, for the base: to go on with that training, "
            "load the model it began with and call trainer.train(resume_from_checkpoint=...)",
            stacklevel=4,
        )


class _OwnOptimizer(MethodHooks):
    """Mix-in for a trainer class that trains with the optimizer of its method."""

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Return the method's optimizer, made when the trainer wants it: after the model has been placed."""
        if self.optimizer is None:
            part: OptimizerPart = self.method.optimizer
            self.optimizer = part.build(self.trained if model is None else model, self.setup)  # type: ignore[arg-type]
        return self.optimizer

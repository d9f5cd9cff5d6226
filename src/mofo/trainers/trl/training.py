"""One process of a training: trl's own script loads, trains and saves, with our method and callback in the trainer."""

from __future__ import annotations

import math
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from mofo import MoFO
from mofo.data.forms import find_form
from mofo.data.sources import read_source
from mofo.errors import UserError, first_line
from mofo.models.hub import is_reachable
from mofo.models.quiet import hide_loading_bars, silence_datasets
from mofo.trainers.callback import LastStepIsLogged, MoFOCallback
from mofo.trainers.forgetting import ForgettingCallback
from mofo.trainers.keeper import kept_sentence
from mofo.trainers.method import check_sharding, use_extras, use_method
from mofo.trainers.record import Made, RecordsTraining, made_by
from mofo.trainers.trl.arguments import Arguments, give_rows, parse, unknown_flag
from mofo.trainers.trl.flags import OPTIONS
from mofo.trainers.trl.objective import find_objective

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from accelerate import FullyShardedDataParallelPlugin
    from transformers import Trainer, TrainingArguments

    from mofo.trainers.trl.objective import Objective


def train(name: str, argv: list[str]) -> None:
    """Train in this process, which `accelerate launch` may have started, once or once per GPU.

    Args:
        name: Name of the objective.
        argv: Flags of trl's command and of MoFO.

    Raises:
        UserError: The command line, the YAML file, the model, the data, the Hub or the disk cannot be used, or the
            parameters would be flat.
    """
    hide_loading_bars()
    silence_datasets()
    objective = find_objective(name)
    args = parse(objective, argv)
    if args.unknown_in_argv:
        raise unknown_flag(objective, args.unknown_in_argv[0])
    _refuse_flat_parameters(args.training)
    method = args.mofo.chosen_method()
    check_sharding(method, is_sharded=os.environ.get("ACCELERATE_USE_FSDP") == "true")
    _convert_hub_rows(args)
    if args.training.include_num_input_tokens_seen == "no" and objective.counts_tokens:
        args.training.include_num_input_tokens_seen = "non_padding"  # the record names them, and resumes count on
    settings = args.mofo.optimizer_settings(args.training, method)
    forgetting = args.mofo.forgetting()
    with method_in_trainers(objective, made_by(args, method, settings), settings, forgetting) as trainers:
        try:
            objective.script(args.script, args.training, args.model, args.mixture)
        except OSError as error:  # also what transformers, datasets and the Hub raise for what they cannot find
            raise UserError(f"Training {args.base} failed: {first_line(error)}") from error
        except Exception as error:  # trl and the libraries below it raise many kinds
            if trainers or isinstance(error, UserError):
                raise
            raise UserError(f"trl cannot prepare the training: {_reason(error)}") from error
    (trainer,) = trainers
    if trainer.is_world_process_zero():
        wrapped: Any = trainer.optimizer  # by accelerate
        group = wrapped.param_groups[0]
        options = ", ".join(f"{name} {group[name]}" for name in OPTIONS if name in group)
        print(f"Trained with {method.info.label}{': ' if options else ''}{options}.")
        if forgetting is not None and forgetting.kept is not None:
            print(kept_sentence(forgetting.kept))
        if (step := diverged_at(trainer.state.log_history)) is not None:
            said = f"the training diverged: at step {step} its loss was not finite; lower --learning_rate."
            print(f"{objective.command}: {said}", file=sys.stderr)


@contextmanager
def method_in_trainers(
    objective: Objective, made: Made, settings: dict[str, Any], forgetting: ForgettingCallback | None = None
) -> Iterator[list[Trainer]]:
    """Let each trainer that is made meanwhile train by a method and record it; yield those trainers.

    trl's script has no place to pass it from outside. The alternatives are worse: a copy of the script ages with each
    release of trl (how it loads models changed within 1.x), and replacing the name of a trainer in trl would do
    nothing, without a word, once the script imports it from elsewhere. The constructor is found by every import.

    Args:
        objective: Its trainers are the ones.
        made: The method, and what else the record names.
        settings: Arguments of MoFO, if that is the method's optimizer.
        forgetting: What measures forgetting and holds a budget, if that is wanted.
    """
    method = made.method
    with_mofo = method.optimizer.name == "mofo"
    construct: Callable[..., None] = objective.trainer.__init__
    trainers: list[Trainer] = []

    def construct_with_method(trainer: Any, *args: Any, **kwargs: Any) -> None:
        construct(trainer, *args, **kwargs)
        if with_mofo:
            trainer.optimizer_cls_and_kwargs = (MoFO, settings)  # which not all constructors take
        if trainer.is_fsdp_enabled:
            trainer.add_callback(_WholeModelAtTheEnd(trainer.accelerator.state.fsdp_plugin))
        if forgetting is not None:
            forgetting.put_first(trainer)
        if method.extras and trainer.is_world_process_zero():
            print(f"Preparing {method.info.label}: what it needs of the base is made once, which may take minutes.")
        if with_mofo:
            use_extras(trainer, method)
            MoFOCallback.attach(trainer)
        else:
            use_method(trainer, method.to_dict())
        trainer.add_callback(LastStepIsLogged)
        trainer.made = made
        trainer.__class__ = type(type(trainer).__name__, (RecordsTraining, type(trainer)), {})
        trainers.append(trainer)

    objective.trainer.__init__ = construct_with_method
    try:
        yield trainers
    finally:
        objective.trainer.__init__ = construct


class _WholeModelAtTheEnd(TrainerCallback):
    """Ask FSDP for the whole model at the end: transformers cannot save one from a SHARDED_STATE_DICT.

    Checkpoints are written before that, in shards.
    """

    def __init__(self, fsdp: FullyShardedDataParallelPlugin) -> None:
        self.fsdp = fsdp

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.fsdp.set_state_dict_type("FULL_STATE_DICT")


def _convert_hub_rows(args: Arguments) -> None:
    """Convert a data set of the Hub whose form trl does not know; all others are trl's to read."""
    name = args.script.dataset_name
    if not name or args.mixture.datasets:
        return
    source = name if args.script.dataset_config is None else f"{name}:{args.script.dataset_config}"
    try:
        first = next(read_source(source, args.script.dataset_train_split, whole=False))
        form = find_form(first, {}, name, args.objective.forms)
    except UserError:
        if not is_reachable():
            raise
        return  # trl has more forms and more ways to read; it says what is wrong
    except StopIteration:
        return
    if form.needed not in args.objective.known_to_trl:
        give_rows(args)


def diverged_at(history: list[dict[str, Any]]) -> int | None:
    """Return the first step of a trainer's history whose loss is not finite; None if there is none."""
    return next((logs["step"] for logs in history if not math.isfinite(logs.get("loss", 0.0))), None)


def _reason(error: Exception) -> str:
    """Return what was wrong: of a `KeyError`, which holds no more than the key, that it is missing."""
    return f"there is no {error.args[0]}." if isinstance(error, KeyError) and error.args else first_line(error)


def _refuse_flat_parameters(training: TrainingArguments) -> None:
    """Refuse DeepSpeed and FSDP1 before a model is loaded; MoFO itself would refuse their parameters, but later."""
    launched_with_fsdp1 = os.environ.get("ACCELERATE_USE_FSDP") == "true" and os.environ.get("FSDP_VERSION") != "2"
    if training.deepspeed_plugin or launched_with_fsdp1:
        raise UserError(
            "DeepSpeed and version 1 of FSDP flatten the parameters, so that MoFO could not select within each tensor: "
            "use FSDP2 (--accelerate_config fsdp2) or plain data parallelism (--accelerate_config multi_gpu)."
        )

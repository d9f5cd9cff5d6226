"""``mofo sft``: trl's supervised fine-tuning command, with MoFO as the optimizer.

trl's own script loads the data and the model, trains and saves. What is ours is which optimizer it trains with, what
the logs say of it (:class:`MoFOCallback`), the names of models and data that the workbench knows, and the flags of
:class:`MoFOArguments`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from argparse import SUPPRESS, ArgumentTypeError
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CalledProcessError
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, NoReturn
from unittest import mock

import torch
import yaml
from filelock import FileLock
from transformers import TrainerCallback
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, TrlParser

from mofo import MoFO
from mofo.data.rows import load_rows
from mofo.errors import UserError
from mofo.files import write_jsonl
from mofo.models.load import cache_folder, resolve_model
from mofo.optim.rule.types import Score
from mofo.optim.state.int8 import StateDtype
from mofo.trainers.callback import MoFOCallback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accelerate import FullyShardedDataParallelPlugin
    from trl import SFTTrainer

_FILES = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}  # suffix: how `datasets` calls it


@dataclass
class MoFOArguments:
    """What ``mofo sft`` adds to trl's flags, which give learning rate, betas, epsilon and weight decay as for AdamW."""

    _argument_group_name: ClassVar[str] = "MoFO"

    fraction: float = field(
        default=0.15,
        metadata={
            "help": "Share of the entries of every parameter tensor that move at a step, in (0, 1]: those with the "
            "largest momentum. The paper recommends 0.05 to 0.2; 1 is AdamW."
        },
    )
    score: Score = field(
        default="momentum",
        metadata={"help": "What ranks the entries. The others are for comparison with the paper's choice."},
    )
    decay: Literal["selected", "all"] = field(
        default="selected",
        metadata={"help": "Whether weight decay acts on the entries that move at a step, or on all as in AdamW."},
    )
    state_dtype: StateDtype = field(
        default="float32",
        metadata={"help": "How moments are kept: int8 takes a quarter of the memory and needs torchao."},
    )


class _Arguments(NamedTuple):
    """One parsed command line; the last two are what only `accelerate launch` can know."""

    script: ScriptArguments
    training: SFTConfig
    model: ModelConfig
    mixture: DatasetMixtureConfig
    mofo: MoFOArguments
    unknown_in_config: list[str]
    unknown_in_argv: list[str]


def main(argv: list[str]) -> int:
    """Checks the command line, then trains under `accelerate launch`, as `trl sft` does.

    Args:
        argv: Everything after ``mofo sft``: flags of `trl sft`, of MoFO and of `accelerate launch`.

    Returns:
        The exit code of the training.

    Raises:
        UserError: The command line, the YAML file, the model or the data cannot be used.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from trl.cli.accelerate_config import resolve_accelerate_config_argument

    args = _parse(argv)
    try:
        flags = resolve_accelerate_config_argument([*args.unknown_in_config, *args.unknown_in_argv])
        script = ["-m", "mofo.trainers.trl_command", *_without(argv, args.unknown_in_argv)]
        launch, unknown = launch_command_parser().parse_known_args([*flags, *script])
        if unknown:
            raise ValueError(f"Neither `trl sft`, `accelerate launch` nor MoFO has the flag {unknown[0]}.")
        launch_command(launch)
    except (ValueError, ImportError) as error:  # the launcher's own checks
        raise UserError(str(error)) from error
    except CalledProcessError as error:  # one process; it has said what went wrong
        return error.returncode
    except ChildFailedError as error:  # one of several
        return error.get_first_failure()[1].exitcode
    return 0


def train(argv: list[str]) -> None:
    """Trains in this process: the script that `accelerate launch` starts, once or once per process.

    Args:
        argv: Flags of `trl sft` and of MoFO.

    Raises:
        UserError: As :func:`main`; or the hub or the disk cannot be used, or the parameters would be flat.
    """
    from trl.scripts.sft import main as trl_sft

    args = _parse(argv)
    if args.unknown_in_argv:
        raise UserError(f"Neither `trl sft` nor MoFO has the flag {args.unknown_in_argv[0]}.")
    _refuse_flat_parameters(args.training)
    with _mofo_in_every_sft_trainer(_optimizer_settings(args)) as trainers:
        try:
            trl_sft(args.script, args.training, args.model, args.mixture)
        except OSError as error:  # also what transformers, datasets and the hub raise for what they cannot find
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"Training {args.model.model_name_or_path} failed: {reason}") from error
    (trainer,) = trainers
    if trainer.is_world_process_zero():
        optimizer = trainer.optimizer.optimizer  # accelerate wraps the one that trained
        group = optimizer.param_groups[0]
        print(
            f"Trained with {type(optimizer).__name__}: fraction {group['fraction']}, score {group['score']}, "
            f"decay {group['decay']}, moments {group['state_dtype']}."
        )


@contextmanager
def _mofo_in_every_sft_trainer(settings: dict[str, Any]) -> Iterator[list[SFTTrainer]]:
    """Passes trl's own argument for another optimizer to each trainer that is made meanwhile; yields those trainers.

    trl's script has no place to pass it from outside. The alternatives are worse: a copy of the script ages with each
    release of trl (how it loads models changed within 1.x), and replacing the name ``trl.SFTTrainer`` would do
    nothing, without a word, once the script imports it from elsewhere. The constructor is found by every import.
    """
    from trl import SFTTrainer

    construct = SFTTrainer.__init__
    trainers: list[SFTTrainer] = []

    def construct_with_mofo(trainer: SFTTrainer, *args: Any, **kwargs: Any) -> None:
        construct(trainer, *args, **kwargs, optimizer_cls_and_kwargs=(MoFO, settings))
        if trainer.is_fsdp_enabled:
            trainer.add_callback(_WholeModelAtTheEnd(trainer.accelerator.state.fsdp_plugin))
        MoFOCallback.attach(trainer)
        trainers.append(trainer)

    with mock.patch.object(SFTTrainer, "__init__", construct_with_mofo):
        yield trainers


class _WholeModelAtTheEnd(TrainerCallback):
    """SHARDED_STATE_DICT, in which checkpoints are written, is nothing that transformers saves a trained model in."""

    def __init__(self, fsdp: FullyShardedDataParallelPlugin) -> None:
        self.fsdp = fsdp

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.fsdp.set_state_dict_type("FULL_STATE_DICT")


class _Parser(TrlParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (`mofo sft --help` lists the flags)")


class _Default(str):
    """The default of ``--optim``, told apart from the same name given by the user."""


def _refused_optimizer(value: str) -> str:
    if isinstance(value, _Default):
        return str(value)
    raise ArgumentTypeError(f"mofo sft trains with MoFO, not with {value}; leave it out, or use `trl sft`")


def _parser() -> TrlParser:
    parser = _Parser(
        (ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig, MoFOArguments),
        prog="mofo sft",
        usage="mofo sft --model_name_or_path MODEL --dataset_name DATA [--fraction 0.15] [flags] [--config FILE.yaml]",
        description="Fine-tunes a model as `trl sft` does, with MoFO as the optimizer. MODEL may also be smollm2-135m "
        "or a .gguf file, DATA also a .jsonl, .json, .csv or .parquet file.",
        epilog="Flags of `accelerate launch` (--num_processes, --multi_gpu, ...) are passed on to it; "
        "--accelerate_config takes a file or one of trl's names.",
        conflict_handler="resolve",  # our --optim, which refuses, takes the place of trl's
    )
    parser.add_argument("--optim", type=_refused_optimizer, default=_Default(SFTConfig.optim), help=SUPPRESS)
    return parser


def _parse(argv: list[str]) -> _Arguments:
    """Parses as `trl sft` does, checks what can be checked before a model is loaded, resolves our names."""
    if argv[-1:] == ["--config"]:
        raise UserError("--config needs the path of a YAML file.")
    try:
        parsed = _parser().parse_args_and_config(argv, return_remaining_strings=True, separate_remaining_strings=True)
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise UserError(str(error)) from error
    args = _Arguments(*parsed)
    if args.training.optim_args or args.training.optim_target_modules:
        raise UserError("--optim_args and --optim_target_modules are for other optimizers than MoFO; leave them out.")
    try:
        MoFO([torch.zeros(1)], weight_decay=args.training.weight_decay, **_optimizer_settings(args))
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(str(error)) from error
    if not args.model.model_name_or_path:
        raise UserError("There is no model: give --model_name_or_path.")
    args.model.model_name_or_path = resolve_model(args.model.model_name_or_path)
    if not args.mixture.datasets:
        if not args.script.dataset_name:
            raise UserError("There is no data: give --dataset_name, or `datasets:` in a YAML file.")
        file = Path(args.script.dataset_name).expanduser()
        if file.suffix in _FILES or file.is_file():
            _read_from_file(file, args)
    return args


def _read_from_file(file: Path, args: _Arguments) -> None:
    """Has trl read a file, as if a YAML file had listed it under ``datasets:``; its rows are checked first."""
    if args.training.eval_strategy != "no" and args.mixture.test_split_size is None:
        raise UserError(f"{file} has no test split to evaluate on: give --test_split_size, or --eval_strategy no.")
    rows = load_rows(str(file))
    if file.suffix == ".csv" or "question" in rows[0]:
        file = _rewritten(rows)
    source = {"path": _FILES[file.suffix], "data_files": str(file)}
    args.mixture.datasets = DatasetMixtureConfig(datasets=[source]).datasets
    args.mixture.streaming = args.script.dataset_streaming
    args.script.dataset_name = None


def _rewritten(rows: list[dict[str, Any]]) -> Path:
    """A file in the cache with rows that trl takes: questions and answers as chats, and text from csv still as text.

    (`datasets` reads a csv column of numbers as numbers.) The name is the content's hash: processes share the file,
    and so does the next run.
    """
    if "question" in rows[0]:
        rows = [
            {
                "prompt": [{"role": "user", "content": row["question"]}],
                "completion": [{"role": "assistant", "content": row["answer"]}],
            }
            for row in rows
        ]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    file = cache_folder() / "data" / f"{digest[:16]}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if not file.is_file():
            write_jsonl(file, rows)
    return file


def _optimizer_settings(args: _Arguments) -> dict[str, Any]:
    """MoFO's arguments but for weight decay, which the trainer sets per group: none for norms and biases."""
    training = args.training
    return {
        "lr": training.learning_rate,
        "betas": (training.adam_beta1, training.adam_beta2),
        "eps": training.adam_epsilon,
        **vars(args.mofo),
    }


def _refuse_flat_parameters(training: SFTConfig) -> None:
    """Before the model is loaded: MoFO itself refuses what DeepSpeed and FSDP1 make of the parameters, but later."""
    launched_with_fsdp1 = os.environ.get("ACCELERATE_USE_FSDP") == "true" and os.environ.get("FSDP_VERSION") != "2"
    if training.deepspeed_plugin or launched_with_fsdp1:
        raise UserError(
            "DeepSpeed and version 1 of FSDP flatten the parameters, so that MoFO could not select within each tensor: "
            "use FSDP2 (--accelerate_config fsdp2) or plain data parallelism (--accelerate_config multi_gpu)."
        )


def _without(argv: list[str], removed: list[str]) -> list[str]:
    """``argv`` without ``removed``, which appear in it in this order."""
    rest, kept = list(removed), []
    for word in argv:
        if word in rest[:1]:
            rest.pop(0)
        else:
            kept.append(word)
    return kept


if __name__ == "__main__":
    try:
        train(sys.argv[1:])
    except UserError as error:
        print(f"mofo sft: {error}", file=sys.stderr)
        sys.exit(2)

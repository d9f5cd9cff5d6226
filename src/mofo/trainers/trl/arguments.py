"""The command line of trl's commands: their flags and MoFO's, with models and data as the workbench names them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
import yaml
from transformers import TrainingArguments
from trl import DatasetMixtureConfig, ModelConfig, TrlParser
from trl.scripts.utils import DatasetConfig

from mofo import MoFO
from mofo.data.forms import parse_columns
from mofo.data.rows import GENERATED, load_rows
from mofo.data.sources import is_local
from mofo.errors import UserError, closest
from mofo.files import check_place
from mofo.models.hub import ask_only_if_reachable
from mofo.models.load import local_folder, resolve_model
from mofo.trainers.checkpoints import last_checkpoint
from mofo.trainers.trl.flags import MoFOArguments, check_adams_flags, check_method
from mofo.trainers.trl.objective import Objective

OTHER_NAMES = {
    "--model": "--model_name_or_path",
    "--data": "--dataset_name",
    "--output": "--output_dir",
    "--state": "--state_dtype",
}
"""Names of flags in other commands and earlier versions, for suggestions."""

DESCRIPTION = """\
{what}

MODEL is a hub id, a folder, a .gguf file or smollm2-135m; DATA is a hub id,
a file, a folder or a pattern of .jsonl, .json, .csv, .parquet or .arrow files.
Without a GPU the model is trained on the CPU, in float32.
"""

EPILOG = """\
examples:
{example}
  mofo {name} --config {name}.yaml --num_processes 2 --accelerate_config multi_gpu

Flags of `accelerate launch` are passed on to it. --accelerate_config takes a
file or one of trl's names; --config takes a YAML file of any of these flags.
"""


class Arguments(NamedTuple):
    """One parsed command line.

    Attributes:
        objective: What it trains for.
        mofo: MoFO's flags.
        script: trl's flags of the data.
        training: trl's flags of the training.
        model: trl's flags of the model; a name of the workbench has become a folder.
        mixture: What a YAML file lists as `datasets:`, and the file that was made of local data.
        unknown_in_config: Flags in the YAML file that only `accelerate launch` can know.
        unknown_in_argv: Such flags on the command line.
        base: The model as its user named it.
        data: The data as their user named them.
    """

    objective: Objective
    mofo: MoFOArguments
    script: Any
    training: Any
    model: ModelConfig
    mixture: DatasetMixtureConfig
    unknown_in_config: list[str]
    unknown_in_argv: list[str]
    base: str = ""
    data: str = ""

    @property
    def model_folder(self) -> Path:
        """The folder of the model."""
        return local_folder(str(self.model.model_name_or_path), self.model.model_revision)


def parse(objective: Objective, argv: list[str]) -> Arguments:
    """Parse a command line as trl does, check what can be checked before a model is loaded, and resolve names.

    Args:
        objective: What it trains for.
        argv: Flags of trl's command, of MoFO and of `accelerate launch`.

    Raises:
        UserError: The command line, the YAML file, the model or the data cannot be used.
    """
    args = _parse_flags(objective, argv)
    if args.training.optim_args or args.training.optim_target_modules:
        raise UserError("--optim_args and --optim_target_modules are for other optimizers than MoFO; leave them out.")
    method = args.mofo.chosen_method()
    check_method(method, objective)
    check_adams_flags(method, args.training)
    args.mofo.forgetting()
    settings = args.mofo.optimizer_settings(args.training, method)
    try:
        MoFO([torch.zeros(1)], weight_decay=args.training.weight_decay, **settings)
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(str(error)) from error
    check_place(Path(str(args.training.output_dir)), "--output_dir")
    _find_checkpoint(args.training)
    if not args.model.model_name_or_path:
        raise UserError("There is no model: give --model_name_or_path.")
    objective.check(args)
    base = str(args.model.model_name_or_path)
    args.model.model_name_or_path = resolve_model(base)
    local_folder(args.model.model_name_or_path, args.model.model_revision)  # a hub id is fetched once for all processes
    data = args.script.dataset_name or ", ".join(str(dataset.path) for dataset in args.mixture.datasets)
    if args.mixture.datasets and args.script.dataset_train_split != "train":
        raise UserError("`datasets:` in a YAML file have a `split:` each; leave --dataset_train_split out.")
    if not args.mixture.datasets:
        if not args.script.dataset_name:
            raise UserError("There is no data: give --dataset_name, or `datasets:` in a YAML file.")
        if is_local(args.script.dataset_name) or args.script.dataset_name.startswith(GENERATED) or args.mofo.columns:
            give_rows(args)
        else:
            name, colon, config = args.script.dataset_name.partition(":")
            if colon:
                args.script.dataset_name, args.script.dataset_config = name, config
            ask_only_if_reachable()
    return args._replace(base=base, data=data)


def _find_checkpoint(training: TrainingArguments) -> None:
    """Check the checkpoint to resume from; `true` stands for the last one of the output folder.

    Raises:
        UserError: There is none.
    """
    given = str(training.resume_from_checkpoint)
    if given.lower() in ("none", "false"):
        training.resume_from_checkpoint = None
        return
    folder = Path(str(training.output_dir)) if given.lower() == "true" else Path(given)
    found = last_checkpoint(folder) if given.lower() == "true" else folder
    if found is None or not (found / "trainer_state.json").is_file():
        raise UserError(
            f"There is no checkpoint in {folder}: give --resume_from_checkpoint a folder such as tuned/checkpoint-500, "
            "or leave it out to start anew."
        )
    training.resume_from_checkpoint = str(found)


def give_rows(args: Arguments) -> None:
    """Read and check the data, and have trl read what was made of them, as if a YAML file listed it as `datasets:`.

    Raises:
        UserError: The data cannot be used; a row is named.
    """
    name = str(args.script.dataset_name)
    if args.training.eval_strategy != "no" and args.mixture.test_split_size is None:
        raise UserError(f"{name} has no test split to evaluate on: give --test_split_size, or --eval_strategy no.")
    given: Any = args.mofo.columns
    try:
        columns = parse_columns(given) if isinstance(given, str) else dict(given or {})
    except ValueError as error:
        raise UserError(f"{error}.") from error
    source = name if args.script.dataset_config is None else f"{name}:{args.script.dataset_config}"
    rows = load_rows(source, split=args.script.dataset_train_split, columns=columns, forms=args.objective.forms)
    file = args.objective.write_rows(rows, source, args)
    args.mixture.datasets = [DatasetConfig(path="parquet", data_files=str(file))]
    args.mixture.streaming = args.script.dataset_streaming
    args.script.dataset_name = None
    args.script.dataset_train_split, args.script.dataset_test_split = "train", "test"  # as trl names what it reads


def unknown_flag(objective: Objective, flag: str) -> UserError:
    """Return the error for a flag that is neither trl's nor MoFO's nor the launcher's."""
    other = OTHER_NAMES.get(flag)
    suggestion = f" (did you mean {other}?)" if other else closest(flag, make_parser(objective).flags)
    return UserError(f"Neither `trl {objective.name}`, `accelerate launch` nor MoFO has the flag {flag}{suggestion}.")


class Parser(TrlParser):
    """trl's parser, which raises `UserError` where that one exits."""

    @property
    def flags(self) -> list[str]:
        """All flags."""
        return list(self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        """Raise an error that names the wrong flag."""
        raise UserError(f"{message} (`{self.prog} --help` lists the flags).")


def make_parser(objective: Objective) -> Parser:
    """Return the parser of trl's flags and MoFO's, with defaults for this machine."""
    groups: Any = (MoFOArguments, objective.script_arguments, objective.config, ModelConfig, DatasetMixtureConfig)
    parser = Parser(
        groups,
        prog=objective.command,
        usage=f"{objective.command} --model_name_or_path MODEL --dataset_name DATA [flags]",
        description=DESCRIPTION.format(what=objective.description),
        epilog=EPILOG.format(name=objective.name, example=objective.example),
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        conflict_handler="resolve",  # our --optim, which refuses, takes the place of trl's
    )
    parser.add_argument(
        "--optim", type=_refuse_optimizer, default=_Default(TrainingArguments.optim), help=argparse.SUPPRESS
    )
    parser._action_groups.insert(0, parser._action_groups.pop())  # the last group is MoFO's: show it first
    if not torch.accelerator.is_available():
        parser.set_defaults(use_cpu=True, bf16=False)  # trl's own defaults, bfloat16 on a GPU, are refused here
    parser.set_defaults(logging_nan_inf_filter=False)  # which shows a loss that is not finite as 0
    parser.set_defaults(disable_tqdm=not sys.stderr.isatty())  # transformers takes quiet libraries for no bar at all
    return parser


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help with defaults, and with the lines of description and examples as they are."""


class _Default(str):
    """The default of `--optim`, distinguishable from the same name given by the user."""


def _refuse_optimizer(value: str) -> str:
    if isinstance(value, _Default):
        return str(value)
    raise argparse.ArgumentTypeError(
        f"--method chooses the optimizer, not {value}; leave --optim out, or use trl's own command"
    )


def _parse_flags(objective: Objective, argv: list[str]) -> Arguments:
    """Parse flags and YAML file."""
    if argv[-1:] == ["--config"]:
        raise UserError("--config needs the path of a YAML file.")
    try:
        parsed = make_parser(objective).parse_args_and_config(
            argv, return_remaining_strings=True, separate_remaining_strings=True
        )
    except yaml.YAMLError as error:
        raise UserError(f"The file of --config is not YAML: {' '.join(str(error).split())}.") from error
    except OSError as error:
        raise UserError(f"The file {error.filename} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(str(error)) from error
    return Arguments(objective, *parsed)

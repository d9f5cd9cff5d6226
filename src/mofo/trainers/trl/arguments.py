"""The command line of trl's commands: their flags and MoFO's, with models and data as the workbench names them."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn

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
from mofo.methods.method import Method, check_settings
from mofo.methods.part import Part
from mofo.models.hub import ask_only_if_reachable
from mofo.models.load import local_folder, resolve_model
from mofo.optim.rule.types import Score
from mofo.optim.state.int8 import StateDtype
from mofo.trainers.budget import Way, parse_budget
from mofo.trainers.checkpoints import last_checkpoint
from mofo.trainers.forgetting import ForgettingCallback
from mofo.trainers.method import single_method
from mofo.trainers.trl.objective import Objective
from mofo.trainers.watch import EVERY

OTHER_NAMES = {
    "--model": "--model_name_or_path",
    "--data": "--dataset_name",
    "--output": "--output_dir",
    "--state": "--state_dtype",
}
"""Names of flags in other commands and earlier versions, for suggestions."""

OPTIONS = ("fraction", "score", "decay", "state_dtype")
"""Flags of MoFO that are arguments of the optimizer."""

SCHEDULE = ("fraction_schedule", "fraction_end", "momentum_share")
"""Flags of the schedule of the fraction, which are settings of the part `mofo` of a method."""

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


@dataclass
class MoFOArguments:
    """What we add to trl's flags, which give learning rate, betas, epsilon and weight decay as for AdamW."""

    _argument_group_name: ClassVar[str] = "MoFO"

    fraction: float = field(
        default=0.15,
        metadata={
            "metavar": "X",
            "help": "share of the entries of each parameter tensor that are updated at a step, in (0, 1]: those with "
            "the largest momentum; the paper recommends 0.05 to 0.2, and 1 is AdamW",
        },
    )
    fraction_schedule: Literal["constant", "linear", "cosine", "share"] = field(
        default="constant",
        metadata={
            "help": "course of the fraction: linear or cosine from --fraction to --fraction_end, or share: whatever "
            "fraction holds --momentum_share"
        },
    )
    fraction_end: float = field(
        default=0.05, metadata={"metavar": "X", "help": "fraction of the last step, for linear and cosine"}
    )
    momentum_share: float = field(
        default=0.5,
        metadata={"metavar": "X", "help": "share of the momentum's L1 norm that the selected entries hold, for share"},
    )
    score: Score = field(
        default="momentum",
        metadata={"help": "what ranks the entries; the others are for comparison with the paper's choice"},
    )
    decay: Literal["selected", "all"] = field(
        default="selected",
        metadata={"help": "whether weight decay acts on the entries that are updated, or on all as in AdamW"},
    )
    state_dtype: StateDtype = field(
        default="float32",
        metadata={"help": "how moments are kept: int8 takes a quarter of the memory and needs torchao"},
    )

    method: str = field(
        default="adamw+self-distill",  # what forgot least at equal learning: docs/evidence.md
        metadata={
            "metavar": "METHOD",
            "help": "optimizer and extras joined by +, such as mofo or adamw+l2; `mofo methods` lists them",
        },
    )
    method_settings: str = field(
        default="",
        metadata={
            "metavar": "NAME=V,...",
            "help": "settings of the extras, separated by commas, such as self-distill.weight=0.3",
        },
    )
    probes: str = field(
        default="",
        metadata={
            "metavar": "PROBE,...",
            "help": "what to measure of forgetting along the training, separated by commas, such as divergence,text; "
            "`mofo probes` lists them",
        },
    )
    probe_steps: int = field(
        default=EVERY, metadata={"metavar": "N", "help": "steps between two measurements of --probes and --budget"}
    )
    budget: str = field(
        default="",
        metadata={
            "metavar": "PROBE=X,...",
            "help": "by how much probes may get worse until the end, such as divergence=0.05 nats per token; the last "
            "weights are pulled back towards the base as far as that needs",
        },
    )
    budget_way: Way = field(
        default="pull",
        metadata={
            "help": "how the budget is held: pull back at the end, stop, slow down as it is used up, or two of them; "
            "those with pull guarantee it"
        },
    )
    columns: str | None = field(
        default=None,
        metadata={
            "metavar": "FIELD=NAME,...",
            "help": "names of the data's fields, where they are others than those of a form: "
            "question=Prompt,answer=Reply",
        },
    )

    def optimizer_settings(self, training: TrainingArguments, method: Method) -> dict[str, Any]:
        """Return MoFO's arguments except weight decay, which the trainer sets per group: none for norms and biases."""
        rounding = getattr(method.optimizer, "rounding", "nearest")
        return {
            "lr": training.learning_rate,
            "betas": (training.adam_beta1, training.adam_beta2),
            "eps": training.adam_epsilon,
            **{name: getattr(self, name) for name in OPTIONS},
            **({} if rounding == "nearest" else {"rounding": rounding}),
        }

    def chosen_method(self) -> Method:
        """Return the method that is to train.

        Raises:
            UserError: It is unknown or only for comparisons, or flags of MoFO are given for another optimizer.
        """
        words = [word.partition("=") for word in self.method_settings.split(",") if word]
        for name, equals, value in words:
            if not equals or not value:
                raise UserError(
                    f"--method_settings has {name!r}, expected NAME=VALUE, such as self-distill.weight=0.3."
                )
        settings = {name.strip(): value.strip() for name, _, value in words}
        check_settings(settings)
        changed = [name for name in (*OPTIONS, *SCHEDULE) if getattr(self, name) != getattr(type(self), name)]
        given = {f"mofo.{name}": getattr(self, name) for name in SCHEDULE if name in changed}
        method = single_method(self.method, settings | given)
        _check_no_flags_among(settings, method)
        if self.fraction_schedule == "share" and self.score != "momentum":
            raise UserError(f"--fraction_schedule share is a share of the momentum: leave out --score {self.score}.")
        if method.optimizer.name != "mofo" and changed:
            raise UserError(
                f"--{changed[0]} is a flag of MoFO, and --method {self.method} does not train with it: leave it out, "
                "or give --method mofo or mofo with extras, such as mofo+self-distill."
            )
        return method

    def forgetting(self) -> ForgettingCallback | None:
        """Return the callback that measures what is forgotten and holds the budget; None where neither is wanted.

        Raises:
            UserError: A probe or the budget cannot be used, or what goes with them is given without them.
        """
        specs = [name.strip() for name in self.probes.split(",") if name.strip()]
        if self.budget_way != type(self).budget_way and not self.budget:
            raise UserError("--budget_way is given without --budget, such as --budget divergence=0.05.")
        if not specs and not self.budget:
            if self.probe_steps != type(self).probe_steps:
                raise UserError("--probe_steps is given without --probes and --budget: there is nothing to measure.")
            return None
        budget = parse_budget(self.budget) if self.budget else None
        return ForgettingCallback(specs, self.probe_steps, budget=budget, way=self.budget_way)


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
    _check_method(method, objective)
    _check_adams_flags(method, args.training)
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


def _check_method(method: Method, objective: Objective) -> None:
    """Refuse parts that weigh the tokens of answers where there are no answers to be copied.

    Raises:
        UserError: The method has one.
    """
    weighing = next((part for part in method.extras if type(part).loss is not Part.loss), None)
    if weighing is not None and objective.name != "sft":
        raise UserError(
            f"{weighing.name} changes the loss on answers to be copied, and {objective.command} has no such loss; "
            "leave it out, or use mofo sft."
        )


def _check_no_flags_among(settings: dict[str, str], method: Method) -> None:
    """Refuse settings of the optimizer that are flags, or that a trainer's optimizer cannot have.

    Raises:
        UserError: One is among them.
    """
    optimizer = method.optimizer.name
    flags = ("learning_rate", "weight_decay", *(OPTIONS if optimizer == "mofo" else ()))
    for name, value in settings.items():
        part, _, own = name.rpartition(".")
        if part not in ("", optimizer):
            continue
        if own in flags:
            raise UserError(f"--method_settings has {name}, which is a flag: give --{own} {value}.")
        if optimizer == "mofo" and own == "blocks":
            raise UserError(f"--method_settings has {name}, which is for mofo compare alone: leave it out.")


def _check_adams_flags(method: Method, training: TrainingArguments) -> None:
    """Refuse Adam's flags for an optimizer that does not read them.

    Raises:
        UserError: One is given.
    """
    if method.optimizer.name in ("adamw", "mofo"):
        return
    for name in ("adam_beta1", "adam_beta2", "adam_epsilon"):
        if getattr(training, name) != getattr(TrainingArguments, name):
            raise UserError(
                f"--{name} is a flag of AdamW and MoFO, and {method.optimizer.name} does not read it: leave it out; "
                f"`mofo methods {method.optimizer.name}` lists what --method_settings can set."
            )


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

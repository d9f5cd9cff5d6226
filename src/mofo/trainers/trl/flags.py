"""What we add to trl's flags, and the method that they choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from transformers import TrainingArguments

from mofo.errors import UserError
from mofo.methods.method import Method, check_settings
from mofo.methods.part import Part
from mofo.optim.rule.types import Score
from mofo.optim.state.int8 import StateDtype
from mofo.trainers.budget import Way, parse_budget
from mofo.trainers.forgetting import ForgettingCallback
from mofo.trainers.method import is_plain_adamw, single_method

if TYPE_CHECKING:
    from mofo.trainers.trl.objective import Objective

OPTIONS = ("fraction", "score", "decay", "state_dtype")
"""Flags of MoFO that are arguments of the optimizer."""

SCHEDULE = ("fraction_schedule", "fraction_end", "momentum_share")
"""Flags of the schedule of the fraction, which are settings of the part `mofo` of a method."""


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
    probe_steps: int | None = field(
        default=None,
        metadata={
            "metavar": "N",
            "help": "steps between two measurements of --probes and --budget; by default 50, or as many more as keep "
            "their cost within 2 percent of the time",
        },
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
        return {
            "lr": training.learning_rate,
            "betas": (training.adam_beta1, training.adam_beta2),
            "eps": training.adam_epsilon,
            **{name: getattr(self, name) for name in OPTIONS},
            "rounding": getattr(method.optimizer, "rounding", "nearest"),
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
            if self.probe_steps is not None:
                raise UserError("--probe_steps is given without --probes and --budget: there is nothing to measure.")
            return None
        budget = parse_budget(self.budget) if self.budget else None
        return ForgettingCallback(specs, self.probe_steps, budget=budget, way=self.budget_way)


def check_method(method: Method, objective: Objective) -> None:
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


def check_adams_flags(method: Method, training: TrainingArguments) -> None:
    """Refuse Adam's flags for an optimizer that does not read them.

    Raises:
        UserError: One is given.
    """
    if method.optimizer.name == "mofo" or is_plain_adamw(method.optimizer):
        return
    for name in ("adam_beta1", "adam_beta2", "adam_epsilon"):
        if getattr(training, name) != getattr(TrainingArguments, name):
            raise UserError(
                f"--{name} is a flag of AdamW and MoFO, and {method.name} does not read it: leave it out; "
                f"`mofo methods {method.optimizer.name}` lists what --method_settings can set."
            )

"""A probe: one measurement of what a model may have forgotten."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mofo.results import Metric

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Options:
    """What holds for all probes of a recipe.

    Attributes:
        harness_data: Folder of files with the rows of tasks; None where they come from the Hub.
        allow_code_execution: Whether code that a model writes may be run.
    """

    harness_data: Path | None = None
    allow_code_execution: bool = False


@dataclass(frozen=True)
class Answer:
    """What a model answered to one question of a probe.

    Attributes:
        question: The question, as the model read it.
        expected: The right answer.
        given: The model's answer.
        scores: What it counts in each of the probe's numbers that has it as a unit; 1 is right where answers are right
            or wrong. The answers come in the order of the units.
    """

    question: str
    expected: str
    given: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Base:
    """The model before fine-tuning, from which probes are made.

    Attributes:
        model: The model. Probes do not keep it.
        tokenizer: Its tokenizer.
        seed: Seed of what a probe draws.
        options: What holds for all probes.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    seed: int = 0
    options: Options = Options()


class Probe(ABC):
    """One measurement of a model. A kind of probe is a subclass in a file of its own, listed in `mofo.measure.kinds`.

    The first line of the subclass's docstring says what it measures. A recipe asks for a probe by its kind, `text`, or
    by its kind and an argument, `text:FILE.txt`.

    Class attributes:
        usage: The forms in which a recipe asks for a probe of this kind.
        numbers: What it returns, with units.
        better: Which way its numbers are better: `lower` or `higher`.
        cost: What measuring a model takes.
        kept_positions: Positions of text whose logits of the base it keeps in memory, about as many.

    Args:
        name: Name of the probe, unique among those of a recipe.
    """

    usage: ClassVar[tuple[str, ...]]
    numbers: ClassVar[str]
    better: ClassVar[Literal["lower", "higher"]]
    cost: ClassVar[str]
    kept_positions: ClassVar[int] = 0

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def name_of(cls, kind: str, argument: str) -> str:
        """Return the name of a probe: that of its file, or its kind's if it has no argument."""
        return Path(argument).stem if argument else kind

    @classmethod
    @abstractmethod
    def check(cls, argument: str, options: Options) -> None:
        """Check, before any model is loaded, that a probe can be made.

        Args:
            argument: What follows the kind's colon in the recipe, or its @ with this; empty if there is none.
            options: What holds for all probes.

        Raises:
            UserError: The argument cannot be used.
        """

    @classmethod
    @abstractmethod
    def make(cls, name: str, argument: str, base: Base, state: Any) -> Probe:
        """Return a probe that is ready to measure any model of the base's family.

        Args:
            name: Name of the probe.
            argument: As for `check`.
            base: The base.
            state: What `state` of the probe returned when it was first made, or None if it never was.

        Raises:
            UserError: As `check`.
        """

    @abstractmethod
    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """Return a number of the model for each of `metrics`, by its name. The model is left as it was.

        A number that is a `mofo.measure.mean.Mean` has a standard error in the report.
        """

    def ask(self, model: PreTrainedModel) -> tuple[dict[str, float], list[Answer]]:
        """Return what `measure` returns, and the model's answers if the probe keeps them."""
        return self.measure(model), []

    @property
    @abstractmethod
    def metrics(self) -> list[Metric]:
        """The numbers that `measure` returns, as `results.json` describes them."""

    def kept(self) -> dict[str, Tensor]:
        """Return what the probe has computed from the base and compares with, so that it can do without it."""
        return {}

    def restore(self, kept: Mapping[str, Tensor]) -> None:  # noqa: B027, most probes keep nothing
        """Compare with what `kept` has returned, in place of what the probe was made with.

        Raises:
            KeyError: Something that this process needs is not there.
        """

    def state(self) -> Any:
        """Return what must be remembered, as a JSON value, to make the same probe again; None if nothing must."""
        return None

"""A probe: one measurement of what a model may have forgotten."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mofo.results import Metric

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Base:
    """The model before fine-tuning, from which probes are made.

    Attributes:
        model: The model. Probes do not keep it.
        tokenizer: Its tokenizer.
        seed: Seed of what a probe draws.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    seed: int = 0


class Probe(ABC):
    """One measurement of a model. A kind of probe is a subclass in a file of its own, listed in `mofo.measure.kinds`.

    The first line of the subclass's docstring says what it measures. A recipe asks for a probe by its kind, `text`, or
    by its kind and an argument, `text:FILE.txt`.

    Class attributes:
        usage: The forms in which a recipe asks for a probe of this kind.
        numbers: What it returns, with units.
        better: Which way its numbers are better: `lower` or `higher`.
        cost: What measuring a model takes.

    Args:
        name: Name of the probe, unique among those of a recipe.
    """

    usage: ClassVar[tuple[str, ...]]
    numbers: ClassVar[str]
    better: ClassVar[Literal["lower", "higher"]]
    cost: ClassVar[str]

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    @abstractmethod
    def check(cls, argument: str) -> None:
        """Check, before any model is loaded, that a probe can be made.

        Args:
            argument: What follows the kind's colon in the recipe; empty if there is none.

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

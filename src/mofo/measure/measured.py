"""What was measured of a model, with the units of every mean, as a point of `results.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mofo.measure.mean import Mean, Stratum, change_errors, errors
from mofo.measure.pairing import paired
from mofo.measure.probe import Answer
from mofo.results import Errors, Paired, Pairings, Point

Numbers = Mapping[str, Mapping[str, float]]
"""Numbers by task or probe and by their names; those that are a `Mean` have standard errors."""


class MeanUnits(NamedTuple):
    """The units of a `Mean`, as JSON can hold them."""

    totals: list[float]
    counts: list[int]
    strata: Sequence[Stratum] = ()


Units = dict[str, dict[str, MeanUnits]]
"""The units of each `Mean`, by task or probe and by name."""


@dataclass(frozen=True)
class Measured:
    """The numbers of a model.

    Attributes:
        learned: Numbers of each task.
        forgotten: Numbers of each probe.
        answers: What it answered to the questions of each probe that keeps answers.
    """

    learned: Numbers
    forgotten: Numbers
    answers: Mapping[str, Sequence[Answer]] = field(default_factory=dict)

    def point(self, base: Measured | None) -> Point:
        """Return the numbers as a point at step 0, with the errors of their changes from the base if it is given."""
        before = base or Measured({}, {})
        return Point(
            step=0,
            learned=_plain(self.learned),
            forgotten=_plain(self.forgotten),
            errors=Errors(learned=_errors(self.learned), forgotten=_errors(self.forgotten)),
            change_errors=Errors(
                learned=_change_errors(before.learned, self.learned),
                forgotten=_change_errors(before.forgotten, self.forgotten),
            ),
            paired=Pairings(
                learned=_paired(before.learned, self.learned), forgotten=_paired(before.forgotten, self.forgotten)
            ),
        )

    @property
    def units(self) -> dict[str, Units]:
        """The units of every mean; `from_units` makes the means again."""
        return {"learned": _units(self.learned), "forgotten": _units(self.forgotten)}

    @classmethod
    def from_units(cls, units: Mapping[str, Units]) -> Measured:
        """Return the means of units."""
        return cls(_means(units.get("learned", {})), _means(units.get("forgotten", {})))


def _means(units: Units) -> Numbers:
    return {source: {name: Mean(*pair) for name, pair in means.items()} for source, means in units.items()}


def _plain(numbers: Numbers) -> dict[str, dict[str, float | None]]:
    return {source: {name: float(value) for name, value in values.items()} for source, values in numbers.items()}


def _errors(numbers: Numbers) -> dict[str, dict[str, float | None]]:
    return {source: dict(errors(values)) for source, values in numbers.items()}


def _change_errors(before: Numbers, after: Numbers) -> dict[str, dict[str, float | None]]:
    return {source: dict(change_errors(before[source], after[source])) for source in after if source in before}


def _paired(before: Numbers, after: Numbers) -> dict[str, dict[str, Paired]]:
    return {
        source: {
            name: found
            for name, value in after[source].items()
            if isinstance(value, Mean)
            and isinstance(earlier := before[source].get(name), Mean)
            and (found := paired(earlier, value)) is not None
        }
        for source in after
        if source in before
    }


def _units(numbers: Numbers) -> Units:
    return {
        source: {
            name: MeanUnits(value.totals, value.counts, value.strata)
            for name, value in values.items()
            if isinstance(value, Mean)
        }
        for source, values in numbers.items()
    }

"""`mofo measure`: what a tuned model has learned, forgotten and moved against its base, whoever tuned it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from mofo.files import check_place
from mofo.measure.bounds import Bound, check_bounds
from mofo.measure.distance import weight_distance
from mofo.measure.prepared import TASK, Reading, prepare
from mofo.measure.progress import stage
from mofo.models.precision import autocast, choose_precision
from mofo.models.weights import weights_of
from mofo.results import Errors, FinalDistance, Metric, Number, Pairings, Point, Record

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ModelResults(Record):
    """What was measured of one model."""

    learned: dict[str, Number] = Field(description="held-out `loss`; empty where there was no data")
    forgotten: dict[str, dict[str, Number]] = Field(description="per probe its metrics")
    errors: Errors = Field(default=Errors(), description="standard errors of these numbers")
    change_errors: Errors = Field(default=Errors(), description="standard errors of their changes from the base")
    paired: Pairings = Field(default=Pairings(), description="what was compared with the base question by question")

    @property
    def point(self) -> Point:
        """The numbers as a point of a comparison."""
        return Point(
            step=0,
            learned={TASK: self.learned},
            forgotten=self.forgotten,
            errors=self.errors,
            change_errors=self.change_errors,
            paired=self.paired,
        )


class PairResults(Record):
    """What was measured of a base and a tuned model."""

    base: ModelResults = Field(description="the base")
    tuned: ModelResults = Field(description="the tuned model")
    distance: FinalDistance = Field(description="distance of the tuned model from the base")
    metrics: list[Metric] = Field(default=[], description="what the numbers of the task and the probes are")
    rows: dict[str, int] = Field(
        default={}, description="number of held-out rows that were not used as they are, by reason"
    )
    notes: list[str] = Field(default=[], description="how the two were made comparable, where they were not")


def measure_pair(
    base: str | None,
    tuned: str,
    *,
    probes: Sequence[str],
    data: str | None = None,
    answers: Path | None = None,
    bounds: Sequence[Bound] = (),
    **reading: Unpack[Reading],
) -> PairResults:
    """Measure two models of one architecture.

    Where their vocabularies differ, everything is measured on the tokens that both have.

    Args:
        base: The model before, as for `mofo.models.load.load_model`; None for the one that an adapter names.
        tuned: The model after, whole or an adapter, which is merged.
        probes: Probe specifications.
        data: Held-out data of the task; without it nothing is measured of learning.
        answers: Folder for what the models answered to the questions of probes, `base/` and `tuned/` in it.
        bounds: What the results will be held to: refused before anything is measured if it will not be.
        reading: As for `mofo.measure.prepared.prepare`.

    Raises:
        UserError: A model, probe or data file cannot be used, the two models are not of one architecture, or a bound
            is on nothing that is measured.
    """
    if answers is not None:
        check_place(answers, "--save-answers")
    prepared = prepare(base, tuned, probes=probes, data=data, **reading)
    pair = prepared.pair
    with stage("distance"):
        distance = weight_distance(weights_of(pair.base), weights_of(pair.tuned))
    pair.tuned.float()
    with autocast(choose_precision("auto")):
        made = prepared.make_probes()
        metrics = prepared.metrics(made)
        check_bounds(bounds, metrics)
        before, after = (
            prepared.measure(model, role, made, answers / role if answers else None)
            for role, model in {"base": pair.base, "tuned": pair.tuned}.items()
        )
    return PairResults(
        base=_results(before.point(None)),
        tuned=_results(after.point(before)),
        distance=distance,
        metrics=metrics,
        rows=prepared.reasons,
        notes=pair.notes,
    )


def _results(point: Point) -> ModelResults:
    return ModelResults(
        learned=point.learned[TASK],
        forgotten=point.forgotten,
        errors=point.errors,
        change_errors=point.change_errors,
        paired=point.paired,
    )

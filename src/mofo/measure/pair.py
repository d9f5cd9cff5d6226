"""`mofo measure`: what a tuned model has learned, forgotten and moved against its base, whoever tuned it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.files import check_place
from mofo.machine import LIBRARIES, versions
from mofo.measure.answers import answers_to
from mofo.measure.bounds import Bound, check_bounds
from mofo.measure.distance import weight_distance
from mofo.measure.measured import Measured
from mofo.measure.prepared import Reading, prepare
from mofo.measure.progress import stage
from mofo.models.digest import stored_digest
from mofo.models.pairing import base_of
from mofo.models.precision import autocast, choose_precision
from mofo.models.weights import weights_of
from mofo.pair import TASK, ModelResults, PairResults, Question
from mofo.results import Point

if TYPE_CHECKING:
    from typing_extensions import Unpack


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
    precision = choose_precision("auto")
    with autocast(precision):
        made = prepared.make_probes()
        metrics = prepared.metrics(made)
        check_bounds(bounds, metrics)
        before, after = (
            prepared.measure(model, role, made, answers / role if answers else None)
            for role, model in {"base": pair.base, "tuned": pair.tuned}.items()
        )
    point = after.point(before)
    return PairResults(
        base=_results(base_of(base, tuned), before.point(None)),
        tuned=_results(tuned, point),
        distance=distance,
        metrics=metrics,
        questions=_changed(before, after, point),
        data=data,
        rows=prepared.reasons,
        notes=pair.notes,
        precision=precision,
        versions=versions(*LIBRARIES, "lm_eval"),
    )


def _results(model: str, point: Point) -> ModelResults:
    return ModelResults(
        model=model,
        sha256=stored_digest(model),
        learned=point.learned[TASK],
        forgotten=point.forgotten,
        errors=point.errors,
        change_errors=point.change_errors,
        paired=point.paired,
    )


def _changed(before: Measured, after: Measured, point: Point) -> dict[str, dict[str, dict[int, Question]]]:
    """Return the questions that were lost or won, with what both models answered, where answers were kept."""
    changed: dict[str, dict[str, dict[int, Question]]] = {}
    for source, numbers in point.paired.forgotten.items():
        for name, paired in numbers.items():
            old, new = (answers_to(measured.answers.get(source, ()), name) for measured in (before, after))
            places = sorted((*paired.lost_questions, *paired.won_questions)) if old else []
            if places:
                changed.setdefault(source, {})[name] = {
                    place: Question(
                        question=old[place].question,
                        expected=old[place].expected,
                        base=old[place].given,
                        tuned=new[place].given,
                    )
                    for place in places
                }
    return changed

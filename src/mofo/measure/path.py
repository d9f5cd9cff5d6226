"""`mofo blend`: what is learned and forgotten on the way from a base to a tuned model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.errors import UserError
from mofo.forgetting import Forgetting, Mark, find_knee
from mofo.measure.prepared import Reading, prepare
from mofo.models.blending import blended_models
from mofo.models.precision import autocast, choose_precision

if TYPE_CHECKING:
    from typing_extensions import Unpack


def check_scales(scales: Sequence[float]) -> None:
    """Check that shares of a change lie on the way from the base to the tuned model.

    Raises:
        UserError: One does not.
    """
    for scale in scales:
        if not 0 <= scale <= 1:
            raise UserError(
                f"The scale {scale:g} is not between 0, the base, and 1, the tuned model, which is the "
                "way that is measured: mofo apply --scale goes beyond it."
            )


def measure_path(
    base: str | None,
    tuned: str,
    scales: Sequence[float],
    *,
    probes: Sequence[str],
    data: str,
    **reading: Unpack[Reading],
) -> Forgetting:
    """Measure base + c · (tuned − base) for several shares c.

    Two models are in memory, and the weights of the tuned one once more, in the type that they are stored in.

    Args:
        base: The model before, as for `mofo.models.load.load_model`; None for the one that an adapter names.
        tuned: The model after, whole or an adapter.
        scales: The shares c, in [0, 1]; the base and the tuned model are measured in any case.
        probes: Probe specifications.
        data: Held-out data of the task.
        reading: As for `mofo.measure.prepared.prepare`.

    Raises:
        UserError: A share lies outside, there is nothing that can be forgotten, or the models cannot be measured.
    """
    check_scales(scales)
    if not probes:
        raise UserError("There is no probe: name at least one measure of forgetting, such as divergence.")
    prepared = prepare(base, tuned, probes=probes, data=data, **reading)
    pair = prepared.pair
    precision = choose_precision("auto")
    with autocast(precision):
        made = prepared.make_probes()
        before = prepared.measure(pair.base, "base", made)
    marks = []
    for scale, model in blended_models(pair.base, pair.tuned, sorted({*scales, 1.0} - {0.0})):
        with autocast(precision):  # which keeps copies of the weights until it ends
            measured = prepared.measure(model, f"scale {scale:g}", made)
        marks.append(Mark(at=scale, point=measured.point(before)))
    record = Forgetting(
        over="scale",
        model=Path(tuned).name or tuned,
        metrics=prepared.metrics(made),
        base=before.point(None),
        marks=marks,
        notes=[*pair.notes, *(f"{count} {reason}" for reason, count in prepared.reasons.items())],
    )
    return record.model_copy(update={"knee": find_knee(record)})

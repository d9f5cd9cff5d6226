"""`mofo landscape`: what is learned and forgotten in the plane through a base and two tuned models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mofo.data.conversation import Turns
from mofo.data.tokens import Example
from mofo.errors import UserError
from mofo.files import append_jsonl, sole_owner_of, write_jsonl, write_text
from mofo.landscape import FILE_NAME, POINTS_NAME, End, Landscape, Place, Point, Step, Values, load_landscape
from mofo.measure.held_out import read_held_out
from mofo.measure.kinds import check_probe_specs, make_probes, probe_states
from mofo.measure.metrics import learned_metrics
from mofo.measure.plane import Plane
from mofo.measure.probe import Probe
from mofo.measure.progress import report, stage
from mofo.measure.scoring import held_out_loss
from mofo.models.ends import TunedModel, find_tuned
from mofo.models.load import load_model, resolve_model
from mofo.models.pairing import check_same_shapes
from mofo.models.precision import autocast, choose_precision, compute_device
from mofo.models.weights import weights_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAME = 1e-4
"""In the unit of the axes: models that are closer than this are taken for the same."""

MARGIN = 0.25
"""What the grid has beyond the models on each side, as a share of the square that holds them."""


def measure_landscape(
    base: str,
    models: Sequence[str],
    output: Path,
    *,
    data: str | None = None,
    probes: Sequence[str] = ("text",),
    resolution: int = 21,
    rows: int = 100,
    max_length: int = 1024,
    columns: Mapping[str, str] | None = None,
    turns: Turns = "all",
    trust_remote_code: bool = False,
    overwrite: bool = False,
    begun: Callable[[int, int], None] = lambda missing, total: None,
) -> Landscape:
    """Measure a grid of models in the plane through a base and two tuned models.

    Further models and all checkpoints are projected onto the plane. Interrupted at any moment, the same call goes on
    with the points that are missing. Another `resolution` keeps the points that both grids have: with 2n − 1 in place
    of n, all.

    In memory are three copies of the weights in float32, the base's and the two directions, and a model to work with.

    Args:
        base: The model before, as for `mofo.models.load.load_model`.
        models: Two models that span the plane, and any others, as for `mofo.models.ends.find_tuned`.
        output: Folder of the results.
        data: Held-out data of the task; without it nothing is measured of learning.
        probes: Probe specifications.
        resolution: Number of points along each side of the square.
        rows: The most held-out rows.
        max_length: Tokens to which rows are truncated.
        columns: The data's names of fields, as for `mofo.data.rows.load_rows`.
        turns: Which of the assistant's turns count, as for `mofo.data.tokens.encode`.
        trust_remote_code: Whether code that comes with a model may run.
        overwrite: Replace another landscape in the folder.
        begun: Called with how many points are to be measured, and how many there are in all.

    Raises:
        UserError: The input cannot be used, or another process works on the folder; models of other shapes are refused
            before any is loaded.
    """
    if rows < 1:
        raise UserError(f"--rows is {rows}, expected at least 1.")
    if resolution < 2:
        raise UserError(f"--resolution is {resolution}, expected at least 2.")
    check_probe_specs(probes)
    tuned = _find_all(base, models)
    held_out: list[Example] = []
    if data:
        held_out, _ = read_held_out(
            data,
            base,
            rows=rows,
            max_length=max_length,
            columns=columns,
            turns=turns,
            trust_remote_code=trust_remote_code,
        )
    precision = choose_precision("auto")
    settings = {"rows": _digest(held_out), "probes": list(probes), "precision": precision}
    whole = [model for one in tuned for model in (one.model, *one.checkpoints.values())]
    check_same_shapes(base, whole, trust_remote_code=trust_remote_code)
    with sole_owner_of(output):
        earlier = _earlier(output, settings, overwrite=overwrite)
        load = _Loader(base, trust_remote_code=trust_remote_code)
        with stage("loading the base"):
            model, tokenizer = load_model(base, trust_remote_code=trust_remote_code)
            model.to(compute_device())  # type: ignore[arg-type]  # transformers hides the method's type
        with autocast(precision), stage("preparing the probes"):
            states = earlier.states if earlier else {}
            made = make_probes(probes, base=model, tokenizer=tokenizer, states=states)
        ruler = Ruler(held_out, made, precision)
        known = {end.model: end.values for end in earlier.ends} if earlier else {}
        at_base = earlier.at_base if earlier else ruler.measure(model)
        plane, ends = _place_all(model, tuned, load, ruler, known)
        if earlier:
            ends = _as_before(ends, earlier, output)
        xs, ys = square([(0.0, 0.0), *(place for end in ends for place in _places(end))], resolution)
        found = Landscape(
            base=base,
            data=data,
            held_out_rows=len(held_out),
            settings=settings,
            unit=plane.unit,
            angle=plane.angle,
            at_base=at_base,
            ends=ends,
            metrics=[*(learned_metrics("task")[:1] if data else []), *(m for probe in made for m in probe.metrics)],
            states=probe_states(made),
            xs=xs,
            ys=ys,
        )
        # written again: a kill may have left half a line, not to be continued
        points = earlier.points if earlier else []
        write_jsonl(output / POINTS_NAME, [point.model_dump(mode="json") for point in points])
        write_text(output / FILE_NAME, found.model_dump_json(by_alias=True, exclude={"points"}, indent=1) + "\n")
        found = load_landscape(output)
        begun(len(found.missing), len(found.grid))
        if found.missing:
            _measure_grid(found, plane, load.base(), ruler, output / POINTS_NAME)
        return load_landscape(output)


def square(places: Sequence[Place], resolution: int) -> tuple[list[float], list[float]]:
    """Return the columns and rows of a grid over a square that holds all places, with a margin.

    The coordinates are those of a finer grid too, where that has 2n − 1 points in place of n.
    """
    low, high = np.min(places, axis=0), np.max(places, axis=0)
    side = float((high - low).max()) * (1 + 2 * MARGIN)
    corner = (low + high - side) / 2
    shares = np.linspace(0, 1, resolution)
    x, y = (np.round(start + side * shares, 9).tolist() for start in corner)
    return x, y


class Ruler:
    """Measures models: the held-out loss, and the probes."""

    def __init__(self, held_out: Sequence[Example], probes: Sequence[Probe], precision: str) -> None:
        self.held_out, self.probes, self.precision = held_out, probes, precision

    def measure(self, model: PreTrainedModel) -> Values:
        """Return the numbers of a model."""
        with autocast(self.precision):
            learned = {"loss": held_out_loss(model, self.held_out)["loss"]} if self.held_out else {}
            return Values(
                learned={name: float(value) for name, value in learned.items()},
                forgotten={
                    probe.name: {name: float(value) for name, value in probe.measure(model).items()}
                    for probe in self.probes
                },
            )


class _Loader:
    """Loads the base, and what was tuned from it, to the device that measures."""

    def __init__(self, base: str, *, trust_remote_code: bool) -> None:
        self._base, self._trust = base, trust_remote_code

    def base(self) -> PreTrainedModel:
        return self.tuned(self._base)

    def tuned(self, spec: str) -> PreTrainedModel:
        model, _ = load_model(spec, base=self._base, trust_remote_code=self._trust)
        model.to(compute_device())  # type: ignore[arg-type]  # transformers hides the method's type
        return model


def _place_all(
    base: PreTrainedModel, tuned: Sequence[TunedModel], load: _Loader, ruler: Ruler, known: Mapping[str, Values]
) -> tuple[Plane, list[End]]:
    """Return the plane, and each tuned model in it with its numbers; only one of them is loaded at a time."""

    def load_and_measure(one: TunedModel) -> tuple[dict[str, Any], Values]:
        with stage(f"loading and measuring {one.name}"):
            model = load.tuned(one.model)
            values = known[one.model] if one.model in known else ruler.measure(model)
            return weights_of(model), values

    (first, first_values), (second, second_values) = load_and_measure(tuned[0]), load_and_measure(tuned[1])
    plane = Plane(weights_of(base), first, second)  # takes their memory
    placed = [(plane.first, first_values), (plane.second, second_values)]
    for one in tuned[2:]:
        weights, values = load_and_measure(one)
        placed.append((plane.project(weights), values))
        del weights
    ends = []
    for one, (place, values) in zip(tuned, placed, strict=True):
        path = []
        for step, checkpoint in one.checkpoints.items():
            with stage(f"placing checkpoint {step} of {one.name}"):
                found = plane.project(weights_of(load.tuned(checkpoint)))
                path.append(Step(step=step, **found.model_dump()))
        ends.append(End(name=one.name, model=one.model, values=values, path=path, **place.model_dump()))
    return plane, ends


def _measure_grid(found: Landscape, plane: Plane, model: PreTrainedModel, ruler: Ruler, file: Path) -> None:
    """Measure the points that are missing, and write each as a line when it is known."""
    done = len(found.grid) - len(found.missing)
    for number, (x, y) in enumerate(found.missing, done):
        report("points", number, len(found.grid))
        plane.move(model, x, y)
        append_jsonl(file, Point(x=x, y=y, values=ruler.measure(model)).model_dump(mode="json"))
    report("points", len(found.grid), len(found.grid))


def _find_all(base: str, models: Sequence[str]) -> list[TunedModel]:
    """Return the tuned models, each with a name of its own."""
    if len(models) < 2:
        raise UserError("A landscape needs a base and two models or more: give the second.")
    resolve_model(base)
    tuned = [find_tuned(model) for model in models]
    for one in tuned:
        resolve_model(one.model)
    if len({one.model for one in tuned}) < len(tuned):
        raise UserError("A model is given twice: give each once.")
    names = [one.name for one in tuned]
    return [one if names.count(one.name) == 1 else one._replace(name=one.model) for one in tuned]


def _places(end: End) -> list[Place]:
    return [end.place, *(step.place for step in end.path)]


def _coordinates(ends: Sequence[End]) -> list[tuple[float, float, float]]:
    return [(one.x, one.y, one.off) for end in ends for one in (end, *end.path)]


def _digest(examples: Sequence[Example]) -> str:
    """Return what tells these rows from others."""
    return hashlib.sha256(json.dumps(examples, sort_keys=True).encode()).hexdigest()[:16] if examples else ""


def _earlier(output: Path, settings: Mapping[str, Any], *, overwrite: bool) -> Landscape | None:
    """Return the landscape that the folder holds already, to go on with; None if there is none, or it goes.

    Raises:
        UserError: The folder holds something else.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and not (output / FILE_NAME).exists()):
        raise UserError(f"{output} exists and is not a folder of mofo landscape: choose another --output.")
    if overwrite or not (output / FILE_NAME).exists():
        return None
    earlier = load_landscape(output)
    changed = [name for name, value in settings.items() if earlier.settings.get(name) != value]
    if changed:
        raise _other_landscape(output, f"its {', '.join(changed)} differ")
    return earlier


def _as_before(ends: Sequence[End], earlier: Landscape, output: Path) -> list[End]:
    """Return the models as an earlier landscape placed them; sums of many numbers may end in other last digits.

    Raises:
        UserError: They are not where they were: other models, or other weights.
    """
    before, now = _coordinates(earlier.ends), _coordinates(ends)
    if len(before) != len(now) or not np.allclose(before, now, atol=SAME):
        raise _other_landscape(output, "its models have other weights or other checkpoints")
    return earlier.ends


def _other_landscape(output: Path, difference: str) -> UserError:
    return UserError(f"{output} holds another landscape ({difference}): choose another --output, or --overwrite it.")

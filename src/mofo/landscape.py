"""`landscape.json` and `points.jsonl`: what was measured in the plane through a base and two tuned models.

`mofo landscape` writes them, and `mofo report` draws them again. A point (x, y) of the plane is the model with the
weights base + x·u + y·v. The direction u leads from the base to the first model; v is the direction from the base to
the second without its component along u, stretched to the length of u. Both axes therefore have the unit "length of the
way from the base to the first model", and distances in the picture are distances between weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from mofo.errors import UserError, first_problem
from mofo.files import read_jsonl
from mofo.results import Metric, Number, Record

FILE_NAME = "landscape.json"
POINTS_NAME = "points.jsonl"

Place = tuple[float, float]
"""Where a model is in the plane: x and y."""


class Values(Record):
    """What was measured of one model."""

    learned: dict[str, Number] = Field(default={}, description="held-out `loss`; empty where there was no data")
    forgotten: dict[str, dict[str, Number]] = Field(default={}, description="per probe its numbers")

    def of(self, metric: Metric) -> float | None:
        """Return the number of a metric; None if it was not measured, or is not finite."""
        part: Mapping[str, float | None] = self.learned
        if metric.kind == "forgotten":
            part = self.forgotten.get(metric.source, {})
        return part.get(metric.name)


class Projection(Record):
    """A tuned model, or one on its way there, and its projection onto the plane."""

    x: float = Field(description="along the way from the base to the first model")
    y: float = Field(description="perpendicular to it, towards the second model")
    off: float = Field(description="distance from the plane, in the unit of the axes; the map there is not its own")
    l2: float = Field(description="Euclidean distance of the weights from the base's")

    @property
    def place(self) -> Place:
        """Where it is drawn."""
        return self.x, self.y


class Step(Projection):
    """A checkpoint on the way to a model."""

    step: int = Field(description="optimizer steps taken")


class End(Projection):
    """A tuned model with its own numbers."""

    name: str = Field(description="what readers call it")
    model: str = Field(description="the model, as its user named it")
    values: Values = Field(description="numbers of the model itself, not of its projection")
    path: list[Step] = Field(default=[], description="its checkpoints, in the order of their steps")


class Point(Record):
    """A point of the grid; a line of `points.jsonl`."""

    x: float
    y: float
    values: Values

    @property
    def place(self) -> Place:
        """Where it is."""
        return self.x, self.y


class Landscape(Record):
    """Everything about a landscape but its points, which are in a file of their own."""

    schema_version: Literal[1] = Field(default=1, alias="schema", description="version of this format")
    base: str = Field(description="the base, as its user named it")
    data: str | None = Field(default=None, description="held-out data of the task, as its user named them")
    held_out_rows: int = Field(default=0, description="rows of it that were used")
    settings: dict[str, Any] = Field(description="what decides the numbers: a digest of the rows, probes, precision")
    unit: float = Field(description="Euclidean length of the way from the base to the first model")
    angle: float = Field(description="degrees between the ways from the base to the first and to the second model")
    at_base: Values = Field(description="numbers of the base")
    ends: list[End] = Field(description="the tuned models, first the two that span the plane")
    metrics: list[Metric] = Field(description="what the numbers are")
    states: dict[str, Any] = Field(default={}, description="what the probes must remember to measure alike")
    xs: list[float] = Field(description="x of the columns of the grid")
    ys: list[float] = Field(description="y of its rows")
    points: list[Point] = Field(default=[], description="the points of the grid that were measured")

    @property
    def grid(self) -> list[Place]:
        """All points of the grid, row by row."""
        return [(x, y) for y in self.ys for x in self.xs]

    @property
    def missing(self) -> list[Place]:
        """The points of the grid that were not measured yet."""
        known = {point.place for point in self.points}
        return [place for place in self.grid if place not in known]


def load_landscape(folder: Path) -> Landscape:
    """Read a landscape with its points.

    Raises:
        UserError: A file is missing, unreadable or damaged.
    """
    file = folder / FILE_NAME
    try:
        found = Landscape.model_validate_json(file.read_bytes())
        points = [Point.model_validate(row) for row in read_jsonl(folder / POINTS_NAME)]
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        raise UserError(f"{file} or {POINTS_NAME} is damaged: {first_problem(error)}.") from None
    except ValueError:
        raise UserError(f"{folder / POINTS_NAME} is damaged: a line of it is not JSON.") from None
    return found.model_copy(update={"points": points})

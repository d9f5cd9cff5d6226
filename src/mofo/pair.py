"""What `mofo measure` and `mofo gate` leave: a base and a tuned model, side by side.

Written as JSON by `--json` and `--output`; the page and the tables are drawn from these types alone.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mofo.results import Errors, FinalDistance, Metric, Number, Pairings, Point, Record

TASK = "task"
"""The task's name in what is learned of held-out data."""


class ModelResults(Record):
    """What was measured of one model."""

    model: str = Field(default="", description="the model, as it was given")
    sha256: str | None = Field(
        default=None, description="SHA-256 of its weights, as `mofo.models.digest` has it; `null` if it was not taken"
    )
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


class Question(Record):
    """A question that one of the two models answered right and the other wrong."""

    question: str = Field(description="the question, as the models read it")
    expected: str = Field(description="the right answer")
    base: str = Field(description="what the base answered")
    tuned: str = Field(description="what the tuned model answered")


class PairResults(Record):
    """What was measured of a base and a tuned model."""

    base: ModelResults = Field(description="the base")
    tuned: ModelResults = Field(description="the tuned model")
    distance: FinalDistance = Field(description="distance of the tuned model from the base")
    metrics: list[Metric] = Field(default=[], description="what the numbers of the task and the probes are")
    questions: dict[str, dict[str, dict[int, Question]]] = Field(
        default={},
        description="per probe and metric the questions that were lost or won, by the numbers that `paired` has",
    )
    data: str | None = Field(default=None, description="where the held-out rows come from; `null` without")
    rows: dict[str, int] = Field(
        default={}, description="number of held-out rows that were not used as they are, by reason"
    )
    notes: list[str] = Field(default=[], description="how the two were made comparable, where they were not")
    precision: str | None = Field(default=None, description="`float32` or `bfloat16`, in which the models computed")
    versions: dict[str, str] = Field(default={}, description="of mofo, Python and the libraries it ran on")


Holds = Literal["kept", "broken", "unsure"]


class Finding(Record):
    """What was measured of a metric that a bound is on."""

    bound: str = Field(description="the bound, as it is written")
    metric: str = Field(description="label of the metric")
    change: Number = Field(description="tuned minus base, in the direction of the metric; `null` if it diverged")
    low: Number = Field(description="lower end of the 95 % interval of the change; `null` without one")
    high: Number = Field(description="upper end")
    outcome: Holds = Field(description="whether the bound is kept or broken beyond chance; or which is unsure")


Verdict = Literal["ship", "do not ship", "too little evidence"]


class GateResults(Record):
    """What a tuned model was held to, and what came out."""

    verdict: Verdict = Field(description="what to do with the model")
    sentence: str = Field(description="the verdict with the findings that it rests on")
    findings: list[Finding] = Field(description="what was found of each metric that a bound is on")
    results: PairResults = Field(description="all that was measured")

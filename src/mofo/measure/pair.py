"""`mofo measure`: what a tuned model has learned, forgotten and moved against its base, whoever tuned it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from mofo.data.conversation import Turns
from mofo.data.rows import load_rows
from mofo.data.tokens import WHOLE, Example, encode_rows, find_row, has_labels
from mofo.data.usage import check_positions, check_tokens, truncated, usage
from mofo.errors import UserError
from mofo.files import check_place
from mofo.measure.answers import ask
from mofo.measure.distance import weight_distance
from mofo.measure.kinds import check_probe_specs, make_probes
from mofo.measure.measured import Measured
from mofo.measure.metrics import learned_metrics
from mofo.measure.probe import Options, Probe
from mofo.measure.progress import stage
from mofo.measure.scoring import held_out_loss
from mofo.models.limits import folder_positions, folder_tokens
from mofo.models.load import load_tokenizer, local_folder, resolve_model
from mofo.models.pairing import base_of, load_pair
from mofo.models.precision import autocast, choose_precision, compute_device
from mofo.models.weights import token_rows, weights_of
from mofo.results import Errors, FinalDistance, Metric, Number, Pairings, Point, Record

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TASK = "task"


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
            learned={_TASK: self.learned},
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
    rows: int = 100,
    max_length: int = 1024,
    columns: Mapping[str, str] | None = None,
    turns: Turns = "all",
    trust_remote_code: bool = False,
    options: Options = Options(),  # noqa: B008  (it is frozen)
    answers: Path | None = None,
) -> PairResults:
    """Measure two models of one architecture.

    Where their vocabularies differ, everything is measured on the tokens that both have.

    Args:
        base: The model before, as for `mofo.models.load.load_model`; None for the one that an adapter names.
        tuned: The model after, whole or an adapter, which is merged.
        probes: Probe specifications.
        data: Held-out data of the task; without it nothing is measured of learning.
        rows: The most held-out rows.
        max_length: Tokens to which rows are truncated.
        columns: The data's names of fields, as for `mofo.data.rows.load_rows`.
        turns: Which of the assistant's turns count, as for `mofo.data.tokens.encode`.
        trust_remote_code: Whether code that comes with a model may run.
        options: What holds for all probes.
        answers: Folder for what the models answered to the questions of probes, `base/` and `tuned/` in it.

    Raises:
        UserError: A model, probe or data file cannot be used, or the two models are not of one architecture.
    """
    if rows < 1:
        raise UserError(f"--rows is {rows}, expected at least 1.")
    check_probe_specs(probes, options)
    if answers is not None:
        check_place(answers, "--save-answers")
    base = base_of(base, tuned)
    for spec in (base, tuned):
        resolve_model(spec)  # a wrong path is noticed before data are read
    examples: list[Example] = []
    reasons: dict[str, int] = {}
    if data:
        held_out = load_rows(data, split="test", limit=rows, columns=columns)
        folder = local_folder(base)
        whole = encode_rows(
            held_out,
            load_tokenizer(folder, trust_remote_code=trust_remote_code),
            WHOLE,
            turns=turns,
            place=find_row({data: held_out}),
        )
        used = usage(whole, max_length)
        if not used.usable:
            raise UserError(f"No row of {data} has a completion within {max_length} tokens: raise --max-length.")
        check_positions(used.longest, folder_positions(folder, trust_remote_code=trust_remote_code), base)
        check_tokens(whole, folder_tokens(folder, trust_remote_code=trust_remote_code), base)
        reasons = used.by_reason("held-out")
        examples = [example for example in (truncated(row, max_length) for row in whole) if has_labels(example)]
    with stage("loading the models"):
        pair = load_pair(base, tuned, trust_remote_code=trust_remote_code)
        if any(max(example["input_ids"]) >= token_rows(pair.base) for example in examples):
            raise UserError(f"The rows of {data} have tokens that {tuned} does not have: its vocabulary is smaller.")
        models = {"base": pair.base, "tuned": pair.tuned}
        for model in models.values():
            model.to(compute_device())  # type: ignore[arg-type]  # transformers hides the method's type
    with stage("distance"):
        distance = weight_distance(weights_of(pair.base), weights_of(pair.tuned))
    pair.tuned.float()
    with autocast(choose_precision("auto")):
        with stage("preparing the probes"):
            made = make_probes(probes, base=pair.base, tokenizer=pair.tokenizer, options=options)
        before, after = (
            _measure(model, role, examples, made, answers / role if answers else None) for role, model in models.items()
        )
    metrics = [*(learned_metrics(_TASK)[:1] if examples else []), *(m for probe in made for m in probe.metrics)]
    return PairResults(
        base=_results(before.point(None)),
        tuned=_results(after.point(before)),
        distance=distance,
        metrics=metrics,
        rows=reasons,
        notes=pair.notes,
    )


def _measure(
    model: PreTrainedModel, role: str, examples: Sequence[Example], probes: Sequence[Probe], answers: Path | None
) -> Measured:
    """Return what a model has learned and forgotten, and report what is being measured."""
    learned: dict[str, float] = {}
    if examples:
        with stage(f"held-out loss, {role}"):
            learned["loss"] = held_out_loss(model, examples)["loss"]
    forgotten = {}
    for probe in probes:
        with stage(f"{probe.name}, {role}"):
            forgotten[probe.name] = ask(probe, model, answers, probe.name)
    return Measured(learned={_TASK: learned}, forgotten=forgotten)


def _results(point: Point) -> ModelResults:
    return ModelResults(
        learned=point.learned[_TASK],
        forgotten=point.forgotten,
        errors=point.errors,
        change_errors=point.change_errors,
        paired=point.paired,
    )

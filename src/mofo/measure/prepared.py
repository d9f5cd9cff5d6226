"""What measuring a base and a tuned model takes, checked and loaded: rows, models, probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from mofo.data.conversation import Turns
from mofo.data.tokens import Example
from mofo.errors import UserError
from mofo.measure.answers import ask
from mofo.measure.held_out import read_held_out
from mofo.measure.kinds import check_probe_specs, make_probes
from mofo.measure.measured import Measured
from mofo.measure.metrics import learned_metrics
from mofo.measure.probe import Options, Probe
from mofo.measure.progress import stage
from mofo.measure.scoring import held_out_loss
from mofo.models.load import resolve_model
from mofo.models.pairing import Pair, base_of, load_pair
from mofo.models.precision import compute_device
from mofo.models.weights import token_rows
from mofo.pair import TASK
from mofo.results import Metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Reading(TypedDict, total=False):
    """How rows, models and probes are read: the keyword arguments of `prepare` that have defaults."""

    rows: int
    max_length: int
    columns: Mapping[str, str] | None
    turns: Turns
    trust_remote_code: bool
    options: Options


@dataclass(frozen=True)
class Prepared:
    """Two models on the device that computes, and what is to be measured of them.

    Attributes:
        pair: The models.
        examples: Held-out rows; none where there are no data.
        reasons: Number of held-out rows that are not used as they are, by reason.
        specs: Probe specifications.
        options: What holds for all probes.
    """

    pair: Pair
    examples: Sequence[Example]
    reasons: dict[str, int]
    specs: Sequence[str]
    options: Options

    def make_probes(self) -> list[Probe]:
        """Return the probes, made from the base."""
        with stage("preparing the probes"):
            return make_probes(self.specs, base=self.pair.base, tokenizer=self.pair.tokenizer, options=self.options)

    def metrics(self, probes: Sequence[Probe]) -> list[Metric]:
        """Return what `measure` measures."""
        return [*(learned_metrics(TASK)[:1] if self.examples else []), *(m for probe in probes for m in probe.metrics)]

    def measure(
        self, model: PreTrainedModel, role: str, probes: Sequence[Probe], answers: Path | None = None
    ) -> Measured:
        """Return what a model has learned and forgotten, and report what is being measured.

        Args:
            model: The model.
            role: What it is called in reports.
            probes: Those of `make_probes`.
            answers: Folder for what it answered to the questions of probes.
        """
        learned: dict[str, float] = {}
        if self.examples:
            with stage(f"held-out loss, {role}"):
                learned["loss"] = held_out_loss(model, self.examples)["loss"]
        forgotten, answered = {}, {}
        for probe in probes:
            with stage(f"{probe.name}, {role}"):
                forgotten[probe.name], answered[probe.name] = ask(probe, model, answers, probe.name)
        return Measured(learned={TASK: learned}, forgotten=forgotten, answers=answered)


def prepare(
    base: str | None,
    tuned: str,
    *,
    probes: Sequence[str],
    data: str | None,
    rows: int = 100,
    max_length: int = 1024,
    columns: Mapping[str, str] | None = None,
    turns: Turns = "all",
    trust_remote_code: bool = False,
    options: Options = Options(),  # noqa: B008  (it is frozen)
) -> Prepared:
    """Check all that is needed to measure two models, and load it.

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

    Raises:
        UserError: A model, probe or data file cannot be used, or the two models are not of one architecture.
    """
    if rows < 1:
        raise UserError(f"--rows is {rows}, expected at least 1.")
    check_probe_specs(probes, options)
    base = base_of(base, tuned)
    for spec in (base, tuned):
        resolve_model(spec)  # a wrong path is noticed before data are read
    examples: list[Example] = []
    reasons: dict[str, int] = {}
    if data:
        examples, reasons = read_held_out(
            data,
            base,
            rows=rows,
            max_length=max_length,
            columns=columns,
            turns=turns,
            trust_remote_code=trust_remote_code,
        )
    with stage("loading the models"):
        pair = load_pair(base, tuned, trust_remote_code=trust_remote_code)
        if any(max(example["input_ids"]) >= token_rows(pair.base) for example in examples):
            raise UserError(f"The rows of {data} have tokens that {tuned} does not have: its vocabulary is smaller.")
        for model in (pair.base, pair.tuned):
            model.to(compute_device())  # type: ignore[arg-type]  # transformers hides the method's type
    return Prepared(pair, examples, reasons, probes, options)

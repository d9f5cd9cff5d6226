"""`mofo gate`: whether a tuned model may be shipped, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.errors import UserError
from mofo.measure.bounds import Bound, judge, parse_bound
from mofo.measure.metrics import learned_metrics
from mofo.measure.pair import measure_pair
from mofo.measure.prepared import Reading
from mofo.pair import TASK, Finding, GateResults, Verdict

if TYPE_CHECKING:
    from typing_extensions import Unpack

EXIT_CODES: dict[Verdict, int] = {"ship": 0, "do not ship": 3, "too little evidence": 4}
"""What `mofo gate` ends with."""


def measure_gate(
    base: str | None,
    tuned: str,
    *,
    learned: str | None,
    forgotten: Sequence[str],
    answers: Path | None = None,
    **reading: Unpack[Reading],
) -> GateResults:
    """Measure a tuned model against its base, and hold it to bounds.

    Args:
        base: The model before; None for the one that an adapter names.
        tuned: The model after.
        learned: Held-out data of the task, on which the tuned model must have a lower loss than the base, beyond its
            interval; after `<` the change that it must be below, such as `held-out.jsonl<-0.2`.
        forgotten: Bounds on probes, as `mofo.measure.bounds` describes them. These probes are measured.
        answers: As for `mofo.measure.pair.measure_pair`.
        reading: As for `mofo.measure.prepared.prepare`.

    Raises:
        UserError: There is no bound, one says nothing that can be kept, or the models cannot be measured.
    """
    bounds = [parse_bound(text) for text in forgotten]
    data = None
    if learned is not None:
        data, bound = _learned_bound(learned)
        bounds.insert(0, bound)
    if not bounds:
        raise UserError("There is nothing to decide by: give --learned, --forgotten or both.")
    probes = list(dict.fromkeys(bound.name for bound in bounds[data is not None :]))
    results = measure_pair(base, tuned, probes=probes, data=data, answers=answers, bounds=bounds, **reading)
    findings = judge(bounds, results)
    verdict = _verdict(findings)
    return GateResults(verdict=verdict, sentence=_sentence(verdict, findings), findings=findings, results=results)


def _verdict(findings: Sequence[Finding]) -> Verdict:
    outcomes = {finding.outcome for finding in findings}
    if "broken" in outcomes:
        return "do not ship"
    return "too little evidence" if "unsure" in outcomes else "ship"


def _sentence(verdict: Verdict, findings: Sequence[Finding]) -> str:
    """Return a verdict with the findings that it rests on."""
    if verdict == "do not ship":
        told = [_told(finding, "which is not {}") for finding in findings if finding.outcome == "broken"]
        return f"Do not ship: {'; '.join(told)}."
    if verdict == "too little evidence":
        told = [_told(finding, "to be {}") for finding in findings if finding.outcome == "unsure"]
        return f"Too little evidence: {'; '.join(told)}; measure more rows or questions."
    return f"Ship: {'; '.join(_told(finding, '{}') for finding in findings)}."


def _learned_bound(text: str) -> tuple[str, Bound]:
    """Return the data that `learned` names, and the bound on the loss on them."""
    data, sign, limit = parse_bound(text)
    if sign == ">" or limit > 0:
        raise UserError(
            f"--learned {text} would let the loss rise: expected data alone, or how far it must fall, such as "
            f"{data}<-0.2."
        )
    return data, Bound(learned_metrics(TASK)[0].label, "<", limit)


def _told(finding: Finding, words: str) -> str:
    """Return what was found, and the bound in words."""
    if finding.change is None:
        return f"{finding.metric} is not finite: the model diverged"
    bound = parse_bound(finding.bound)
    wanted = {"<": f"below {bound.limit:g}", ">": f"above {bound.limit:g}", None: "free of a loss beyond chance"}
    interval = "no interval"
    if finding.low is not None and finding.high is not None:
        interval = f"95 % interval {finding.low:+.4g} to {finding.high:+.4g}"
    return f"{finding.metric} changed by {finding.change:+.4g} ({interval}), {words.format(wanted[bound.sign])}"

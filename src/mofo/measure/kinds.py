"""The kinds of probes, and the probes that a recipe asks for.

A recipe asks for a probe by its kind: `text`, `choice` or `divergence`. Some kinds take a file of one's own,
`text:FILE.txt` and `choice:FILE.jsonl`; such a probe is named after its file. Others take a task and the most
questions to ask of it, `harness:arc_easy@100`, or that number alone, `general@100`. A new kind is a file beside this
one and a line in the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mofo.errors import UserError, closest
from mofo.measure.choice import ChoiceProbe
from mofo.measure.divergence import DivergenceProbe
from mofo.measure.harness.probe import SUITE_KINDS, HarnessProbe
from mofo.measure.probe import Base, Options, Probe
from mofo.measure.text import TextProbe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KINDS: dict[str, type[Probe]] = {
    "text": TextProbe,
    "divergence": DivergenceProbe,
    "choice": ChoiceProbe,
    "harness": HarnessProbe,
    **SUITE_KINDS,
}
"""All kinds of probes, by the word that a recipe asks for them with."""


class Spec(NamedTuple):
    """A probe as a recipe asks for it."""

    name: str
    kind: type[Probe]
    argument: str


def check_probe_specs(specs: Sequence[str], options: Options = Options()) -> None:  # noqa: B008  (it is frozen)
    """Check without a model that probes can be made.

    Args:
        specs: What to measure, such as `["text", "divergence", "choice:arc_easy.jsonl"]`.
        options: What holds for all of them.

    Raises:
        UserError: A kind is unknown, its argument cannot be used (the message names file and row), or two probes would
            have the same name.
    """
    for spec in _parse(specs):
        spec.kind.check(spec.argument, options)


def make_probes(
    specs: Sequence[str],
    *,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    seed: int = 0,
    states: Mapping[str, Any] | None = None,
    options: Options = Options(),  # noqa: B008  (it is frozen)
) -> list[Probe]:
    """Return the probes that a recipe asks for, ready to measure any model of the base's family.

    Args:
        specs: As for `check_probe_specs`.
        base: The base model. Probes do not keep it.
        tokenizer: Its tokenizer.
        seed: Seed of what the probes draw.
        states: What `probe_states` returned when the probes were first made, so that a resumed run measures with the
            same.
        options: What holds for all probes.

    Raises:
        UserError: As `check_probe_specs`.
    """
    known = states or {}
    origin = Base(base, tokenizer, seed, options)
    return [spec.kind.make(spec.name, spec.argument, origin, known.get(spec.name)) for spec in _parse(specs)]


def named_kinds(specs: Sequence[str]) -> dict[str, tuple[str, type[Probe]]]:
    """Return for each probe that is asked for, by its name, how it was asked for and its kind.

    Raises:
        UserError: A kind is unknown, or two probes would have the same name.
    """
    return {parsed.name: (spec, parsed.kind) for spec, parsed in zip(specs, _parse(specs), strict=True)}


def kept_positions(specs: Sequence[str]) -> int:
    """Return at how many positions the base's logits are kept by the probes that a recipe asks for."""
    return sum(spec.kind.kept_positions for spec in _parse(specs))


def probe_states(probes: Sequence[Probe]) -> dict[str, Any]:
    """Return what `make_probes` needs to make the same probes again, as JSON values by the names of the probes."""
    states = {probe.name: probe.state() for probe in probes}
    return {name: state for name, state in states.items() if state is not None}


def probe_name(spec: str) -> str | None:
    """Return the name of a probe that is asked for like this; None if none can be."""
    try:
        return _parse([spec])[0].name
    except UserError:
        return None


def _parse(specs: Sequence[str]) -> list[Spec]:
    parsed: dict[str, Spec] = {}
    for spec in specs:
        found = re.fullmatch(r"(\w*)(?::(.+)|(@.+))?", spec, re.DOTALL)
        kind, argument = (found[1], found[2] or found[3] or "") if found else (spec.partition(":")[0], "")
        if found is None or kind not in KINDS:
            *others, last = [usage for known in KINDS.values() for usage in known.usage]
            raise UserError(f"Unknown probe `{spec}`{closest(kind, KINDS)}: expected {', '.join(others)} or {last}.")
        name = KINDS[kind].name_of(kind, argument)
        if name in parsed:
            raise UserError(f"Two probes would be named `{name}`: leave one out or rename its file.")
        parsed[name] = Spec(name, KINDS[kind], argument)
    return list(parsed.values())

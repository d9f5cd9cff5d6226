"""Probes: what a model is asked to find out how much it forgot.

A probe is asked for by a short text: `text`, `choice`, `divergence`, or `text:FILE.txt` and
`choice:FILE.jsonl` for one's own text and questions, which are named by their file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mofo.errors import UserError
from mofo.measure.choice import GENERAL_KNOWLEDGE, ChoiceProbe, read_questions
from mofo.measure.divergence import DivergenceProbe, write_texts
from mofo.measure.text import TextProbe, general_english

if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS = "text, divergence, choice, text:FILE.txt or choice:FILE.jsonl"


class Probe(Protocol):
    """One measurement of a model."""

    name: str

    def measure(self, model: Any) -> dict[str, float]:
        """Return the probe's metrics for `model`."""


def make_probes(
    specs: Sequence[str], *, base: Any, tokenizer: Any, seed: int = 0, written: list[list[int]] | None = None
) -> list[Probe]:
    """Make the probes that `specs` ask for, ready to measure any model of the base's family.

    Args:
        specs: What to measure, such as `["text", "divergence", "choice", "choice:arc_easy.jsonl"]`.
        base: The base model: `divergence` compares with it. Not kept.
        tokenizer: Its tokenizer.
        seed: Seed of the text that the base writes for `divergence`.
        written: Text that the base wrote before (`DivergenceProbe.written`), so that a resumed run uses the
            same.

    Raises:
        UserError: See `check_probe_specs`.
    """
    probes: list[Probe] = []
    for name, kind, path in parse_specs(specs):
        if kind == "text":
            probes.append(TextProbe(name, read_text(path), tokenizer))
        elif kind == "choice":
            probes.append(ChoiceProbe(name, read_questions(path or GENERAL_KNOWLEDGE), tokenizer))
        else:
            texts = write_texts(base, tokenizer, seed=seed) if written is None else written
            probes.append(DivergenceProbe(name, base, texts))
    return probes


def check_probe_specs(specs: Sequence[str]) -> None:
    """Check without a model that probes can be made.

    Raises:
        UserError: A kind is unknown, a file is missing, empty or malformed (with the row's number), or two
            probes would have the same name.
    """
    for _, kind, path in parse_specs(specs):
        if kind == "text":
            read_text(path)
        elif kind == "choice":
            read_questions(path or GENERAL_KNOWLEDGE)


def parse_specs(specs: Sequence[str]) -> list[tuple[str, str, Path | None]]:
    """Return the name, the kind and the file of each probe."""
    parsed: dict[str, tuple[str, str, Path | None]] = {}
    for spec in specs:
        kind, colon, file = spec.partition(":")
        if kind not in ("text", "divergence", "choice") or (colon and (kind == "divergence" or not file)):
            raise UserError(f"unknown probe `{spec}`: expected {KINDS}")
        path = Path(file) if file else None
        name = path.stem if path else kind
        if name in parsed:
            raise UserError(f"two probes would be named `{name}`: leave one out or rename its file")
        parsed[name] = name, kind, path
    return list(parsed.values())


def read_text(path: Path | None) -> str:
    """Return the text of a file, or the general English text if there is none."""
    if path is None:
        return general_english()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the text of a probe cannot be read from {path}: {error}") from error
    if not text.strip():
        raise UserError(f"{path} is empty: expected a text to measure the loss on")
    return text

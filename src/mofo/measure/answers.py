"""Answers to the questions of probes as files: what is behind every score, to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mofo.files import read_jsonl, write_jsonl
from mofo.measure.probe import Answer, Probe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def ask(probe: Probe, model: PreTrainedModel, folder: Path | None, name: str) -> tuple[dict[str, float], list[Answer]]:
    """Return the numbers of a probe and the answers to its questions, and leave these in a folder, if one is given.

    Args:
        probe: The probe.
        model: The model to be measured.
        folder: The folder; answers lie in it one a line, in the order of the questions.
        name: Name of the file, without its ending.
    """
    numbers, answers = probe.ask(model)
    if answers and folder is not None:
        write_jsonl(_file(folder, name), map(asdict, answers))
    return numbers, answers


def read_answers(folder: Path, name: str) -> list[Answer]:
    """Return the answers that `ask` left; none if there are none."""
    return [Answer(**row) for row in read_jsonl(_file(folder, name))]


def answers_to(answers: Sequence[Answer], metric: str) -> list[Answer]:
    """Return the answers to the questions that are units of a probe's number, in the order of the units."""
    return [answer for answer in answers if metric in answer.scores]


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.jsonl"

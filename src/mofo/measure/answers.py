"""Answers to the questions of probes as files: what is behind every score, to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mofo.files import read_jsonl, write_jsonl
from mofo.measure.probe import Answer


def answers_file(folder: Path, probe: str) -> Path:
    """Return the file of a probe's answers in a folder of results."""
    return folder / "answers" / f"{probe}.jsonl"


def write_answers(folder: Path, probe: str, answers: Sequence[Answer]) -> None:
    """Write a model's answers to the questions of a probe, one a line, in the order of the questions."""
    write_jsonl(answers_file(folder, probe), map(asdict, answers))


def read_answers(folder: Path, probe: str) -> list[Answer]:
    """Return the answers in a folder of results; none if there is no file of them."""
    return [Answer(**row) for row in read_jsonl(answers_file(folder, probe))]


def questions_by_number(answers: Sequence[Answer], metric: str) -> list[str]:
    """Return the texts of the questions that are units of a probe's number, in the order of the units."""
    return [answer.question for answer in answers if metric in answer.scores]

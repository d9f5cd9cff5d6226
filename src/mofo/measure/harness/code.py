"""HumanEval and MBPP: prompts become programs, programs run, and pass@k is estimated."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import comb
from typing import TYPE_CHECKING, Any

from mofo.measure.harness.sandbox import passes

if TYPE_CHECKING:
    from datasets import Dataset

MBPP_EXAMPLES = (2, 3, 4)
"""Numbers of the problems that MBPP's authors show before each question."""


def whole_programs(answers: Iterable[Sequence[str]], rows: Iterable[dict[str, Any]]) -> list[list[str]]:
    """Return the samples of each problem of HumanEval after its prompt, which they continue."""
    return [[row["prompt"] + answer for answer in samples] for samples, row in zip(answers, rows, strict=True)]


def humaneval(row: dict[str, Any], answers: list[list[str]]) -> dict[str, float]:
    """Return pass@1 and, from ten samples on, pass@10 of the programs for a problem of HumanEval."""
    tests = f"{row['test']}\ncheck({row['entry_point']})"
    return _scores([f"{program}\n{tests}" for program in answers[0]])


def mbpp(row: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """Return pass@1 of the program for a problem of MBPP."""
    tests = "\n".join(row["test_list"])
    return _scores([f"{answers[0]}\n{tests}"])


def mbpp_examples(rows: Dataset) -> list[dict[str, Any]]:
    """Return the three problems that are shown, from those that MBPP's authors set apart."""
    return [row for number in MBPP_EXAMPLES for row in rows if row["task_id"] == number]


def _scores(programs: Sequence[str]) -> dict[str, float]:
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        right = sum(threads.map(passes, programs))
    return {f"pass@{k}": pass_at_k(len(programs), right, k) for k in (1, 10) if len(programs) >= k}


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return the chance that one of k samples is right, without bias (Chen et al. 2021, equation 1).

    Args:
        samples: Number of samples that were drawn, at least `k`.
        right: Number of them that are right.
        k: Number of samples that one would draw.
    """
    return 1 - comb(samples - right, k) / comb(samples, k)

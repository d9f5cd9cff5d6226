"""Suites: tasks that are measured together, grouped and averaged as the paper's tables are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mofo.errors import UserError


class Request(NamedTuple):
    """What a recipe asks of the harness: a task, group or tag, and the most questions of each of its tasks."""

    task: str
    limit: int | None


@dataclass(frozen=True)
class Average:
    """An average in which each member weighs the same, whether it is a task or itself an average.

    Attributes:
        name: Name of its number.
        label: What readers call it.
        members: Tasks of the harness by name, and averages.
    """

    name: str
    label: str
    members: tuple[str | Average, ...]

    @property
    def tasks(self) -> list[str]:
        """All tasks in order."""
        return [task for member in self.members for task in (member.tasks if isinstance(member, Average) else [member])]

    def averages(self) -> Iterator[Average]:
        """Yield the averages of several members, the innermost first."""
        for member in self.members:
            if isinstance(member, Average):
                yield from member.averages()
        if len(self.members) > 1:
            yield self

    def without(self, task: str) -> Average:
        """Return the average without one of its own members."""
        return Average(self.name, self.label, tuple(member for member in self.members if member != task))


CODE_TASK = "humaneval_pass10"
"""HumanEval as the paper has it: pass@10 of 20 samples at temperature 0.8."""

SUITES = {
    "general": Average(
        "average",
        "general",
        (Average("commonsense", "commonsense", ("hellaswag", "arc_challenge", "arc_easy")), "mmlu", CODE_TASK),
    ),
    "math": Average("average", "math", ("gsm8k",)),
    "code": Average("average", "code", (CODE_TASK, "mbpp")),
    "medical": Average("average", "medical", ("pubmedqa", "medmcqa", "medqa_4options")),
    "instructions": Average("average", "instructions", ("ifeval",)),
}
"""The suites by name. `general` is the paper's: commonsense, MMLU and HumanEval weigh the same, HumanEval only where
generated code may run. Without it the average is of the other two, and no column of the paper's."""

DESCRIPTIONS = {
    "general": "The paper's average of HellaSwag and ARC, MMLU and HumanEval.",
    "math": "Grade-school mathematics: GSM8K, answers by generating.",
    "code": "Programming: HumanEval and MBPP, for which generated code is run.",
    "medical": "Medicine: PubMedQA, MedMCQA and MedQA, as the paper averages them.",
    "instructions": "Instructions that a program can check: IFEval, answers by generating.",
}
"""What each suite measures, in a line."""


def parse_request(argument: str) -> Request:
    """Return what `TASK[@LIMIT]` asks for.

    Raises:
        UserError: There is no task, or the limit is not a whole number above 0.
    """
    task, at, limit = argument.partition("@")
    if not task:
        raise UserError("A harness probe needs a task, such as harness:arc_easy or harness:mmlu@15.")
    if at and (not limit.isdecimal() or int(limit) < 1):
        raise UserError(f"The limit of harness:{argument} is {limit!r}, expected a whole number of at least 1.")
    return Request(task, int(limit) if at else None)


def parse_limit(suite: str, argument: str) -> int | None:
    """Return the limit of a suite asked for as `SUITE[@LIMIT]`, from what follows its name.

    Raises:
        UserError: As `parse_request`.
    """
    return parse_request(suite + argument if argument.startswith("@") or not argument else f"{suite}@{argument}").limit

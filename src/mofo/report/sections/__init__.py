"""The sections of the page: a file each, with one function from a comparison to a section, or to None."""

from __future__ import annotations

from collections.abc import Callable

from mofo.report.comparison import Comparison
from mofo.report.section import Section
from mofo.report.sections import (
    cost,
    courses,
    distance,
    equal_learning,
    equal_steps,
    forgetting,
    learning,
    limits,
    made,
    matrices,
    questions,
    reading,
    samples,
    sequence,
)

SECTIONS: tuple[Callable[[Comparison], Section | None], ...] = (
    sequence.section,
    matrices.section,
    courses.section,
    equal_learning.section,
    reading.section,
    samples.section,
    questions.section,
    forgetting.section,
    equal_steps.section,
    learning.section,
    distance.section,
    cost.section,
    limits.section,
    made.section,
)
"""In the order of the page. A section that has nothing to show returns None and is left out."""

"""A sequence of tasks as a matrix, and what continual learning is judged by.

R[i][j] is the number of task j after the model has learned tasks 0 to i one after the other; b[j] is the base's, before
the first. Numbers are scores, of which higher ones are better, or losses, of which lower ones are. A *gain* is a change
for the better: of a score the difference, of a loss its negative. Definitions are of Lopez-Paz and Ranzato (2017,
arXiv 1706.08840) and Chaudhry et al. (2018, arXiv 1801.10112); TRACE (arXiv 2310.06762) divides the sum of backward
transfer by the number of tasks instead of that less one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

Numbers = Sequence[float]


@dataclass(frozen=True)
class Matrix:
    """The numbers of a run.

    Attributes:
        rows: R, a row after each task, (tasks, tasks).
        base: b, (tasks,).
        higher_is_better: Whether they are scores; otherwise losses.
    """

    rows: Sequence[Numbers]
    base: Numbers
    higher_is_better: bool

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return len(self.base)

    def gain(self, after: float, before: float) -> float:
        """Return how much better a number is than another."""
        return after - before if self.higher_is_better else before - after

    @property
    def overall(self) -> float:
        """Overall performance, the mean of the last row: "average accuracy" in arXiv 1706.08840, OP in TRACE."""
        return fmean(self.rows[-1])

    @property
    def backward_transfer(self) -> float | None:
        """Mean gain of each task but the last from when it was learned to the end; negative where it was lost.

        From arXiv 1706.08840: 1/(T − 1)·Σ R[T][j] − R[j][j]. None with a single task.
        """
        return self._mean([self.gain(self.rows[-1][j], self.rows[j][j]) for j in range(self.tasks - 1)])

    @property
    def forward_transfer(self) -> float | None:
        """Mean gain over the base of each task but the first just before it is learned.

        From arXiv 1706.08840: 1/(T − 1)·Σ R[j−1][j] − b[j]. None with a single task.
        """
        return self._mean([self.gain(self.rows[j - 1][j], self.base[j]) for j in range(1, self.tasks)])

    @property
    def forgetting(self) -> float | None:
        """Mean loss of each task but the last, from its best before the last task to the end; negative is a gain.

        From arXiv 1801.10112: 1/(T − 1)·Σ max over l < T of R[l][j], less R[T][j]. None with a single task.
        """
        best = max if self.higher_is_better else min
        return self._mean(
            [-self.gain(self.rows[-1][j], best(row[j] for row in self.rows[:-1])) for j in range(self.tasks - 1)]
        )

    def intransigence(self, reference: Numbers) -> float:
        """Return by how much each task, when it has just been learned, falls short of a reference, in the mean.

        From arXiv 1801.10112, where the reference of a task has learned it jointly with those before it. Here it is a
        model that has learned all tasks jointly, or each task alone.

        Args:
            reference: The reference's number of each task, (tasks,).
        """
        return fmean(self.gain(reference[j], self.rows[j][j]) for j in range(self.tasks))

    def largest_drop(self) -> tuple[int, int, float] | None:
        """Return the task that lost most while another was learned, that other, and how much; None if none lost."""
        drops = [
            (j, i, -self.gain(self.rows[i][j], self.rows[i - 1][j])) for i in range(1, self.tasks) for j in range(i)
        ]
        worst = max(drops, key=lambda drop: drop[2], default=None)
        return worst if worst is not None and worst[2] > 0 else None

    def _mean(self, gains: Numbers) -> float | None:
        return fmean(gains) if gains else None

"""A run that a recipe plans, and its name."""

from __future__ import annotations

from dataclasses import dataclass

from mofo.methods.method import Method
from mofo.results import MethodInfo, Order

ORDERS: dict[Order, str] = {"sequence": "", "joint": "all tasks at once", "alone": "each task alone"}
"""The orders of tasks, as the report names them beside a method."""


@dataclass(frozen=True)
class PlannedRun:
    """A run of a recipe: a method, a seed, the order in which it meets the tasks, and whether its rate is tuned."""

    method: Method
    seed: int
    order: Order = "sequence"
    tune: bool = False

    @property
    def name(self) -> str:
        """The run's name, which is also its folder's."""
        return "-".join([self.method.run_name, *self._suffix, f"s{self.seed}"])

    @property
    def method_name(self) -> str:
        """Name of the method, with the order of the tasks if it is not the usual one."""
        return "-".join([self.method.name, *self._suffix])

    @property
    def method_info(self) -> MethodInfo:
        """The method, with the order of the tasks, as `results.json` has it."""
        info = self.method.info
        label = ", ".join(filter(None, [info.label, ORDERS[self.order]]))
        return info.model_copy(update={"label": label, "order": self.order})

    @property
    def _suffix(self) -> list[str]:
        return [] if self.order == "sequence" else [self.order]

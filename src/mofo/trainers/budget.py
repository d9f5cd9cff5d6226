"""A budget of forgetting: what each probe may get worse by until the end of a training, and the ways to hold it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from mofo.errors import UserError
from mofo.measure.kinds import check_probe_specs, named_kinds

Way = Literal["pull", "stop", "slow", "stop-pull", "slow-pull"]
WAYS: tuple[Way, ...] = get_args(Way)
"""What is done to hold a budget; those with `pull` guarantee it."""

FREE = 0.5
"""Share of a budget that is used before `slow` begins to brake."""


@dataclass(frozen=True)
class Budget:
    """What probes may get worse by, and how that is held.

    - `pull`: the training goes on as without a budget. If its end is over the budget, the weights are pulled back along
      the line from the base, to the largest share of their change that is within it.
    - `stop`: the training ends with the first measurement that reaches the budget.
    - `slow`: once half of the budget is used, the learning rate, and MoFO's fraction, are multiplied by what is left of
      the budget, as a share of that half: they are 0 where it is used up, which ends the training.
    - `stop-pull`, `slow-pull`: as these, and an end that is over the budget is pulled back.

    Args:
        bounds: For each probe, as `probes` names it, by how much it may get worse than the base, in its unit:
            `{"divergence": 0.05}` in nats per token.
        way: How the budget is held.

    Raises:
        UserError: A probe is unknown, a bound is not a number above 0, or the way is unknown.
    """

    bounds: Mapping[str, float]
    way: Way = "pull"

    def __post_init__(self) -> None:
        if not self.bounds:
            raise UserError("The budget is empty: give a probe and its bound, such as divergence=0.05.")
        check_probe_specs(list(self.bounds))
        for spec, bound in self.bounds.items():
            _check_bound(spec, bound)
        if self.way not in WAYS:
            raise UserError(f"The way to hold a budget is {self.way!r}, expected one of {', '.join(WAYS)}.")

    @property
    def pulls(self) -> bool:
        """Whether an end that is over the budget is pulled back."""
        return "pull" in self.way

    @property
    def brakes(self) -> bool:
        """Whether measurements along the training change what is learned."""
        return self.way != "pull"

    def used(self, values: Mapping[str, float]) -> float:
        """Return the share of the budget that is used: that of the probe which has used most; above 1 is over it.

        Args:
            values: The changes from the base, as `Watch.measure` returns them. Where one is missing because it is not
                finite, the share is infinite.
        """
        names = {spec: f"forgotten/{name}" for name, (spec, _) in named_kinds(list(self.bounds)).items()}
        shares = [values.get(names[spec], math.inf) / bound for spec, bound in self.bounds.items()]
        return max(share if math.isfinite(share) else math.inf for share in shares)

    def brake(self, used: float) -> float:
        """Return what learning rate and fraction are multiplied by, in [0, 1]; 0 ends the training.

        Args:
            used: The share of the budget that is used.
        """
        if self.way.startswith("stop"):
            return float(used < 1)
        if self.way.startswith("slow"):
            return min(1.0, max(0.0, (1 - used) / (1 - FREE)))
        return 1.0


def parse_budget(text: str) -> dict[str, float]:
    """Return the bounds that a command line gives: `divergence=0.05,text=0.1`.

    Raises:
        UserError: It has another form, or two bounds for one probe.
    """
    bounds: dict[str, float] = {}
    for word in filter(None, text.split(",")):
        spec, equals, number = word.rpartition("=")
        try:
            bound = float(number)
        except ValueError:
            equals = ""
        if not equals or not spec:
            raise UserError(f"The budget has {word!r}, expected PROBE=BOUND, such as divergence=0.05.")
        if spec in bounds:
            raise UserError(f"The budget has two bounds for {spec}: give one.")
        bounds[spec] = bound
    return bounds


def _check_bound(spec: str, bound: float) -> None:
    """Check that a bound is one.

    Raises:
        UserError: It is not a number above 0; the message says what the number means for this probe.
    """
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
        raise UserError(f"The budget of {spec} is {bound!r}, expected a number above 0.")
    if bound > 0:
        return
    kind = next(kind for _, kind in named_kinds([spec]).values())
    worse = "rise" if kind.better == "lower" else "fall"
    if bound == 0:
        raise UserError(
            f"The budget of {spec} is 0, which leaves the base as it is: give a number above 0, by how much it may "
            f"{worse}."
        )
    raise UserError(
        f"The budget of {spec} is {bound:g}, expected a number above 0: by how much it may {worse}, which is worse. "
        f"{-bound:g} lets it {worse} by {-bound:g}."
    )

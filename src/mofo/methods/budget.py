"""A bound on what is forgotten at the end of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from mofo.methods.part import Part, Setup, setting

if TYPE_CHECKING:
    from transformers import TrainerCallback


class Budget(Part):
    """Forgetting is held within a bound at the end, by default by pulling the last weights back towards the base.

    `pull` moves them back along the line to the base, to the largest share of their change that is within the bound,
    checked by measuring. `stop` ends the training with the first measurement that reaches the bound, `slow` lowers
    learning rate and fraction once half of it is used; `stop-pull` and `slow-pull` also pull back what is still over
    it. Those with `pull` guarantee the bound.
    """

    name = "budget"
    label = "budget"
    source = "docs/budget.md"
    cost = "4 bytes a parameter for the base; a measurement every few steps, and up to 9 at the end"
    compares_with_base = True
    single_task = True

    bound: float = setting(0.05, "by how much the probe may get worse until the end, in its unit", short="b", gt=0)
    probe: str = setting("divergence", "the probe that is held: divergence, text, choice, and files of one's own")
    way: Literal["pull", "stop", "slow", "stop-pull", "slow-pull"] = setting(
        "pull",
        "how the bound is held",
        variants={"stop": "stop", "slow": "slow", "stop-pull": "stop and pull", "slow-pull": "slow and pull"},
    )
    every: int = setting(10, "steps between two measurements", ge=1)

    @model_validator(mode="after")
    def _is_a_budget(self) -> Budget:
        """Check the probe.

        Raises:
            UserError: It is unknown, or cannot be made.
        """
        from mofo.trainers import budget

        budget.Budget({self.probe: self.bound}, self.way)
        return self

    def callbacks(self, setup: Setup) -> list[TrainerCallback]:
        """Return what measures, brakes and pulls back."""
        from mofo.trainers.forgetting import ForgettingCallback

        bounds = {self.probe: self.bound}
        return [ForgettingCallback([self.probe], self.every, budget=bounds, way=self.way, origin=setup.base, seed=0)]

"""A plugin of axolotl: the workbench's methods, and what is measured of forgetting, as keys of its YAML file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel, Field

from mofo.trainers import ForgettingCallback, MoFOCallback, use_method

if TYPE_CHECKING:
    from transformers import Trainer


class MoFOArgs(BaseModel):
    """Keys of the YAML file."""

    mofo_method: str = Field(
        "self-distill",
        description="extras for the optimizer that axolotl has, or an optimizer with extras: mofo+self-distill",
    )
    mofo_settings: dict[str, Any] | None = Field(None, description="settings of these, such as self-distill.every: 4")
    mofo_probes: list[str] | None = Field(None, description="what to measure of forgetting along the training")
    mofo_budget: dict[str, float] | None = Field(
        None, description="by how much probes may get worse until the end, such as divergence: 0.05"
    )


class MoFOPlugin(BasePlugin):  # type: ignore[misc]
    """Trains by a method of the workbench, and logs what is forgotten."""

    def get_input_args(self) -> str:
        """Return where axolotl finds the keys."""
        return f"{__name__}.{MoFOArgs.__name__}"

    def post_trainer_create(self, cfg: Any, trainer: Trainer) -> None:
        """Give a trainer that has not begun its method, and what measures.

        Raises:
            UserError: A key cannot be used, or the method names an optimizer where `optimizer` names another.
        """
        method = use_method(trainer, cfg.mofo_method, cfg.mofo_settings)
        if method.optimizer.name == "mofo":
            MoFOCallback.attach(trainer)
        if cfg.mofo_probes or cfg.mofo_budget:
            ForgettingCallback.attach(trainer, probes=cfg.mofo_probes or [], budget=cfg.mofo_budget)

"""The ways to fine-tune that `mofo compare` sets side by side.

A method makes an optimizer for the model. Methods that are penalties (L1, L2) or adapters (LoRA) will add a second
function that changes the loss or the model; nothing else in the workbench knows what a method is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mofo.errors import UserError
from mofo.optim import MoFO, param_groups

if TYPE_CHECKING:
    from mofo.compare.recipe import Recipe, Run


@dataclass(frozen=True)
class Method:
    """One way to fine-tune.

    Attributes:
        make_optimizer: From the model, the run's settings and the recipe to the optimizer.
        uses_fraction: Whether the update fraction is one of the method's settings.
    """

    make_optimizer: Callable[[torch.nn.Module, Run, Recipe], torch.optim.Optimizer]
    uses_fraction: bool


def _adamw(model: torch.nn.Module, run: Run, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(parameters, lr=run.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def _adamw_int8(model: torch.nn.Module, run: Run, recipe: Recipe) -> torch.optim.Optimizer:
    groups = param_groups(model, fraction=1.0, weight_decay=recipe.weight_decay)
    return MoFO(groups, lr=run.learning_rate, state="int8")


def _mofo(score: str = "momentum", state: str = "float32") -> Method:
    def make(model: torch.nn.Module, run: Run, recipe: Recipe) -> torch.optim.Optimizer:
        groups = param_groups(model, fraction=run.fraction, weight_decay=recipe.weight_decay)
        return MoFO(groups, lr=run.learning_rate, score=score, state=state)

    return Method(make, uses_fraction=True)


METHODS: dict[str, Method] = {
    "adamw": Method(_adamw, uses_fraction=False),
    "mofo": _mofo(),
    "mofo-gradient": _mofo("gradient"),
    "mofo-momentum_over_rms": _mofo("momentum_over_rms"),
    "mofo-random": _mofo("random"),
    "adamw-int8": Method(_adamw_int8, uses_fraction=False),
    "mofo-int8": _mofo(state="int8"),
}


def get_method(name: str) -> Method:
    """The method called ``name``.

    Raises:
        UserError: There is none of that name.
    """
    if name not in METHODS:
        raise UserError(f"Unknown method {name!r}: choose from {', '.join(METHODS)}.")
    return METHODS[name]

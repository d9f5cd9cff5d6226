"""The optimizer class: arguments, groups, state, step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from mofo.optim.state import new_state, restored_state
from mofo.optim.update import update

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.optim.optimizer import ParamsT

    from mofo.optim.selection import Score


class MoFO(Optimizer):
    """AdamW that moves only the entries with the largest momentum."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-5,
        fraction: float = 0.15,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        blocks: int = 1,
        score: Score = "momentum",
        decay: str = "selected",
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "fraction": fraction,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "blocks": blocks,
            "score": score,
            "decay": decay,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        params = [p for group in self.param_groups for p in group["params"]]
        for index, saved in state_dict["state"].items():
            self.state[params[index]] = restored_state(params[index], saved)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None or p.numel() == 0:
                    continue
                if not self.state[p]:
                    self.state[p] = new_state(p)
                state = self.state[p]
                keys = ("lr", "fraction", "betas", "eps", "weight_decay", "blocks", "score", "decay", "maximize")
                update(
                    p,
                    p.grad,
                    state["exp_avg"],
                    state["exp_avg_sq"],
                    state["step"],
                    seed=0,
                    **{key: group[key] for key in keys},
                )
        return loss

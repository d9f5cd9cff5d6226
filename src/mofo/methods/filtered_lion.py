"""Lion with MoFO's filter, in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mofo.optim.rule.blocks import selected_count
from mofo.optim.rule.scores import select_top_k


class FilteredLion(Optimizer):
    """Lion that updates in each tensor only the k entries with the largest |m|; all others keep every bit.

    With k = max(1, ⌊fraction · n⌋), of equal momenta the first in row-major order, and m the momentum that holds this
    step's gradient: u = sign(β1·m_before + (1−β1)·g), m = β2·m_before + (1−β2)·g, and θ ← θ − η·(u + λ·θ) where |m|
    is among the k largest. With `fraction=1` this is Lion.

    Args:
        params: Tensors or parameter groups.
        lr: Learning rate η.
        betas: β1, the weight of the momentum in the update, and β2, its decay.
        weight_decay: Decoupled weight decay λ, of the selected entries.
        fraction: Share of the entries of a tensor that are updated, in (0, 1].
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        fraction: float = 0.15,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "fraction": fraction})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the parameters that have a gradient, and return what `closure` returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    state = self.state[param]
                    if not state:
                        state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
                    _update(param, param.grad, state["exp_avg"], group)
        return loss


def _update(param: Tensor, grad: Tensor, exp_avg: Tensor, group: dict[str, Any]) -> None:
    beta1, beta2 = group["betas"]
    direction = exp_avg.lerp(grad, 1 - beta1).sign_()
    exp_avg.lerp_(grad, 1 - beta2)
    moved = (param * (1 - group["lr"] * group["weight_decay"])).add_(direction, alpha=-group["lr"])
    k = selected_count(group["fraction"], param.numel())
    if k == param.numel():
        param.copy_(moved)
    else:
        selected = select_top_k(exp_avg.abs().view(1, -1), k).view(param.shape)
        param.copy_(torch.where(selected, moved, param))

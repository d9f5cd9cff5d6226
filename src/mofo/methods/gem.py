"""Gradient episodic memory: a step that would raise the loss of an earlier task is turned until it does not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mofo.data.tokens import IGNORED, Example
from mofo.methods.part import Part, Setup, setting

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from transformers import PreTrainedModel


class GEM(Part):
    """The gradient is replaced by the nearest one that does not rise against that of any earlier task.

    The gradients of earlier tasks are those of a few of their rows at the weights as they are. What the optimizer makes
    of the gradient (momentum, a filter, a division by its size) is not projected again.
    """

    name = "gem"
    label = "GEM"
    source = "arXiv 1706.08840"
    cost = "for each earlier task a gradient in memory, and a pass over per_step of its rows, every Nth step"
    remembers_tasks = True

    memory: int = setting(64, "rows of each earlier task that are kept", ge=1)
    per_step: int = setting(4, "rows of each earlier task that a gradient is of, the kept ones in turn", ge=1)
    every: int = setting(1, "project in every Nth step alone", ge=1)
    strength: float = setting(
        0.5, "the least weight γ of each earlier gradient in a step that must be turned; 0 for the nearest one", ge=0
    )

    def after_backward(self, model: PreTrainedModel, step: int, setup: Setup) -> None:
        """Project the gradients."""
        import torch

        if not setup.earlier or step % self.every:
            return
        trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
        gradient = [_taken(parameter) for parameter in trained]
        earlier = []
        for task, rows in enumerate(setup.earlier):
            _loss(model, self._rows(rows, task, step // self.every, setup), setup).backward()
            earlier.append([_taken(parameter) for parameter in trained])
        products = torch.stack([_dot(one, gradient) for one in earlier])
        weights = [0.0] * len(earlier)
        if (products < 0).any():
            gram = torch.stack([torch.stack([_dot(one, other) for other in earlier]) for one in earlier])
            weights = list(project(gram.cpu().numpy(), products.cpu().numpy(), self.strength))
        for place, parameter in enumerate(trained):
            parameter.grad = gradient[place]
            for weight, one in zip(weights, earlier, strict=True):
                parameter.grad.add_(one[place], alpha=float(weight))

    def _rows(self, rows: Sequence[Example], task: int, turn: int, setup: Setup) -> list[Example]:
        """Return the rows of an earlier task that are next: its memory is drawn once, and gone through in turn."""
        key = f"{self.name}-{task}"
        if key not in setup.scratch:
            distinct = list({tuple(row["input_ids"]): row for row in rows}.values())
            chance = random.Random(setup.seed + 1_000_003 * task)
            setup.scratch[key] = chance.sample(distinct, min(self.memory, len(distinct)))
        kept: list[Example] = setup.scratch[key]
        return [kept[(turn * self.per_step + i) % len(kept)] for i in range(min(self.per_step, len(kept)))]


def project(gram: np.ndarray, products: np.ndarray, strength: float = 0.0) -> np.ndarray:
    """Return the weights v of earlier gradients G (a row each) with which g + Gᵀ·v is the projection of g.

    The projection is the vector nearest to g that has no negative product with a row of G. Its dual is the small
    quadratic programme min ½·vᵀ·G·Gᵀ·v + (G·g)ᵀ·v over v ≥ γ (arXiv 1706.08840, equation 11), which is one of
    non-negative least squares.

    Args:
        gram: The products of earlier gradients with each other, G·Gᵀ, (tasks, tasks).
        products: Their products with g, G·g, (tasks,).
        strength: γ. Above 0 every earlier gradient is added with at least this weight.
    """
    import numpy as np
    from scipy.optimize import nnls

    gram, products = gram.astype(np.float64), products.astype(np.float64)
    values, vectors = np.linalg.eigh(gram)
    kept = values > values.max(initial=0.0) * 1e-10  # in a direction that no gradient has there is nothing to choose
    if not kept.any():
        return np.full(len(products), strength)
    roots = np.sqrt(values[kept])
    # ½·uᵀ·K·u + qᵀ·u is ½·‖A·u − b‖² with AᵀA = K and Aᵀb = −q, and u = v − γ ≥ 0
    linear = products + gram.sum(axis=1) * strength
    solution, _ = nnls(roots[:, None] * vectors[:, kept].T, -(vectors[:, kept].T @ linear) / roots)
    return np.asarray(solution + strength)


def _loss(model: PreTrainedModel, rows: Sequence[Example], setup: Setup) -> Tensor:
    """Return the mean loss per labelled token of rows."""
    from mofo.measure.scoring import pad

    inputs = pad([row["input_ids"] for row in rows], 0).to(setup.device)
    labels = pad([row["labels"] for row in rows], IGNORED).to(setup.device)
    loss: Tensor = model(input_ids=inputs, labels=labels, use_cache=False).loss  # padding is behind: it needs no mask
    return loss


def _taken(parameter: nn.Parameter) -> Tensor:
    """Return a parameter's gradient, and leave it without one."""
    import torch

    gradient, parameter.grad = parameter.grad, None
    return torch.zeros_like(parameter) if gradient is None else gradient


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """Return the product of two gradients as a float64 scalar."""
    import torch

    return torch.stack([(a * b).sum(dtype=torch.float64) for a, b in zip(one, other, strict=True)]).sum()

"""Gradients that ``torch.amp.GradScaler`` has scaled, which it leaves to a fused optimizer to undo.

It sets two attributes of the optimizer before a step: ``found_inf``, not 0 where a gradient overflowed and the step is
to be left out, and ``grad_scale``, by which gradients are to be divided, or None where they were. Kernels on a GPU read
both there; the other back ends are told here.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


class GradScale:
    """What the scaler says of this step."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
        self.grad_scale: Tensor | None = getattr(optimizer, "grad_scale", None)

    @functools.cached_property
    def overflowed(self) -> bool:
        """Whether the step is to be left out; waits for the device."""
        return self.found_inf is not None and bool(self.found_inf.item())

    def unscaled(self, grad: Tensor) -> Tensor:
        """The gradient as it would be without the scaler; a copy of 32 bits at least, in which nothing underflows."""
        if self.grad_scale is None:
            return grad
        wide = grad.double() if grad.element_size() == 8 else grad.float()
        return wide / self.grad_scale.to(wide.device, wide.dtype)

"""The protocol of `torch.amp.GradScaler`, which leaves unscaling to optimizers with `fused=True`.

Before a step it sets two attributes of the optimizer: `found_inf`, not 0 where a gradient overflowed and the step is to
be left out, and `grad_scale`, by which gradients are to be divided, or None where they have been. Kernels on a GPU read
both there; for the other back ends it is done here.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


class GradScale:
    """What the scaler says of the gradients of this step."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
        self.grad_scale: Tensor | None = getattr(optimizer, "grad_scale", None)
        self.is_set = self.found_inf is not None or self.grad_scale is not None

    @functools.cached_property
    def overflowed(self) -> bool:
        """Whether the step is to be left out; waits for the device."""
        return self.found_inf is not None and bool(self.found_inf.item())

    def unscaled(self, grad: Tensor) -> Tensor:
        """Return a gradient without the scale; a copy of at least 32 bits, in which nothing underflows."""
        if self.grad_scale is None:
            return grad
        wide = grad.double() if grad.element_size() == 8 else grad.float()
        return wide / self.grad_scale.to(wide.device, wide.dtype)

"""The straight line from a base to the model that was trained from it, and the way back along it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mofo.errors import UserError
from mofo.optim.dtensor import local

HALVINGS = 7
"""How often the search halves the line: the share that it finds is exact to 1/128."""


class Line:
    """θ₀ + c·(θ − θ₀) for shares c between the base θ₀ and the trained parameters θ of a model, as they are now.

    With LoRA the change of a matrix is proportional to B, so the line runs from B = 0, and no copy of the base is
    needed. θ is kept in host memory as long as the line is.

    Args:
        model: The model. Every process that holds a share of it makes a line of its own.
        origin: The base's weights as `copy_of_trained` returned them; without adapters they are needed.

    Raises:
        UserError: As `check_line`.
    """

    def __init__(self, model: nn.Module, origin: Mapping[str, Tensor]) -> None:
        check_line(model)
        adapted = has_adapters(model)
        self._parameters: list[tuple[str, Tensor, Tensor | None, Tensor]] = []
        for name, parameter in _trained(model):
            if not adapted or _is_factor(name, "B"):
                weight = local(parameter.detach())
                self._parameters.append((name, weight, None if adapted else origin[name], weight.cpu().clone()))

    def go(self, share: float | Callable[[str], float]) -> None:
        """Move the model to a share of its change: 0 is the base, 1 the trained model, both to the bit.

        Args:
            share: The share, or what returns that of a parameter by its name.
        """
        for name, weight, base, end in self._parameters:
            start = torch.zeros_like(weight) if base is None else base.to(weight.device)
            kept = share(name) if callable(share) else share
            if kept in (0, 1):  # as they are: times 0 infinities would be NaN
                weight.copy_(end if kept else start)
            else:
                weight.copy_(start.lerp(end.to(weight.device), kept))


def has_adapters(model: nn.Module) -> bool:
    """Return whether a model is one of peft with adapters, so that its base is always there."""
    from peft import PeftModel

    return isinstance(model, PeftModel)


def check_line(model: nn.Module) -> None:
    """Check that a straight line leads from the base to whatever a model may become.

    Raises:
        UserError: It has adapters that are not LoRA's, or trains something beside them.
    """
    if not has_adapters(model):
        return
    from peft.tuners.lora import LoraLayer

    variants = any(layer.lora_variant for layer in model.modules() if isinstance(layer, LoraLayer))
    other = next((name for name, _ in _trained(model) if not _is_factor(name, "A") and not _is_factor(name, "B")), None)
    if variants or other:
        what = "a variant such as DoRA is trained" if variants else f"{other} is trained"
        raise UserError(
            "The way back to the base is known for full fine-tuning and for plain LoRA, whose change is proportional "
            f"to B, and here {what}: hold a budget by stop or slow, and leave blend out."
        )


def copy_of_trained(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the trained parameters by name, in host memory; of sharded ones this process's share."""
    return {name: local(parameter.detach()).cpu().clone() for name, parameter in _trained(model)}


@contextmanager
def at(model: nn.Module, origin: Mapping[str, Tensor]) -> Iterator[None]:
    """Put the base's weights into a model for a while."""
    line = Line(model, origin)
    line.go(0)
    try:
        yield
    finally:
        line.go(1)


def largest_share(is_within: Callable[[float], bool]) -> float:
    """Return the largest share, to 1/128, that is within the budget; 0 if none is.

    The search takes for granted that what is forgotten rises along the line. If it does not, the share may not be the
    largest, but it has been measured in any case.

    Args:
        is_within: Measures a share. It is not asked for 0.
    """
    if is_within(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_within(middle) else (low, middle)
    return low


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _is_factor(name: str, factor: str) -> bool:
    """Return whether a parameter is the factor A or B of a LoRA layer, by peft's names."""
    return any(f".{kind}_{factor}." in f"{name}." for kind in ("lora", "lora_embedding"))

"""The hooks of a method's parts in their places in a trainer of transformers or trl."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mofo.errors import UserError
from mofo.methods.part import Part

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

    from mofo.methods.method import Method
    from mofo.methods.part import Setup

    _Trainer = Trainer
else:
    _Trainer = object


def add_gradients(
    parts: Sequence[Part],
    model: PreTrainedModel,
    step: int,
    setup: Setup,
    computing: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Add the gradients of what parts add to the loss of an optimizer step, and then let them change all gradients.

    Args:
        parts: The parts.
        model: The model, with the gradients of the task.
        step: The step, from 0.
        setup: What the parts may know.
        computing: Context in which the model computes, such as autocast.
    """
    for part in parts:
        with computing():
            penalty = part.penalty(model, step, setup)
        if penalty is not None:
            penalty.backward()
    for part in parts:
        part.after_backward(model, step, setup)


class MethodHooks(_Trainer):
    """Mix-in for a trainer class: adds the penalties of a method and changes its gradients, once an optimizer step.

    The penalties have a backward pass of their own after that of the last batch of a step, so that they count once
    however many batches a step has, are clipped with the rest, and leave the logged loss that of the task.

    Attributes:
        method: The method.
        setup: What its hooks may know.
        trained: The model that the hooks see.
    """

    method: Method
    setup: Setup
    trained: PreTrainedModel

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Return the loss as the parts want it."""
        changing = [part for part in self.method.parts if type(part).loss is not Part.loss]
        if not changing:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if outputs.get("logits") is None:
            raise UserError(f"{changing[0].name} needs the logits, which this trainer's loss does not compute.")
        tokens = torch.as_tensor(num_items_in_batch)
        for part in changing:
            loss = part.loss(loss, outputs.logits, inputs, tokens, self.setup)
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor | Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Compute the gradients of a batch, and after the last batch of a step those of the penalties."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            add_gradients(self.method.parts, self.trained, self.state.global_step, self.setup)
        return loss

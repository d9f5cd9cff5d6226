"""transformers' Trainer, with the hooks of a method's parts in their places."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from mofo.methods.method import Method
from mofo.methods.part import Setup


class MethodTrainer(Trainer):
    """A trainer that adds the penalties of a method and changes its gradients, once an optimizer step.

    The penalties have a backward pass of their own after that of the last batch of a step, so that they count once
    however many batches a step has, are clipped with the rest, and leave the logged loss that of the task.

    Args:
        method: The method; its optimizer and callbacks are given to the trainer as usual.
        setup: What its hooks may know.
        arguments: As for `transformers.Trainer`.
    """

    def __init__(self, method: Method, setup: Setup, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.method = method
        self.setup = setup
        self.trained = cast("PreTrainedModel", self.model)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Return the loss as the parts want it."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        tokens = torch.as_tensor(num_items_in_batch)
        for part in self.method.parts:
            loss = part.loss(loss, outputs.logits, inputs, tokens, self.setup)
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor | Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Compute the gradients of a batch, and after the last batch of a step those of the penalties."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            step = self.state.global_step
            for part in self.method.parts:
                penalty = part.penalty(self.trained, step, self.setup)
                if penalty is not None:
                    penalty.backward()
            for part in self.method.parts:
                part.after_backward(self.trained, step, self.setup)
        return loss

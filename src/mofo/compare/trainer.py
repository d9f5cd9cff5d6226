"""transformers' Trainer, with the hooks of a method's parts in their places."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer

from mofo.methods.hooks import MethodHooks
from mofo.methods.method import Method
from mofo.methods.part import Setup


class MethodTrainer(MethodHooks, Trainer):
    """A trainer that trains by a method.

    Args:
        method: The method; its callbacks are given to the trainer as usual.
        setup: What its hooks may know.
        arguments: As for `transformers.Trainer`.
    """

    def __init__(self, method: Method, setup: Setup, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.method = method
        self.setup = setup
        self.trained = cast("PreTrainedModel", self.model)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the method's optimizer. A trainer that spreads parameters takes none that was made before."""
        if self.optimizer is None:
            self.optimizer = self.method.optimizer.build(self.trained, self.setup)
        return self.optimizer

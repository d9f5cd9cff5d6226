"""transformers' Trainer, with the hooks of a method's parts in their places."""

from __future__ import annotations

from collections.abc import Mapping
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
        carried: The state of each parameter in the optimizer of an earlier training, which this one goes on with.
        arguments: As for `transformers.Trainer`.
    """

    def __init__(
        self, method: Method, setup: Setup, *, carried: Mapping[torch.Tensor, Any] | None = None, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.method = method
        self.setup = setup
        self.carried = carried or {}
        self.trained = cast("PreTrainedModel", self.model)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the method's optimizer. A trainer that spreads parameters takes none that was made before."""
        if self.optimizer is None:
            self.optimizer = self.method.optimizer.build(self.trained, self.setup)
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            self.optimizer.state.update({p: self.carried[p] for p in parameters if p in self.carried})
        return self.optimizer

    def state_by_parameter(self) -> Mapping[torch.Tensor, Any]:
        """Return the optimizer's state of each parameter, for another trainer's `carried`."""
        assert self.optimizer is not None
        return dict(self.optimizer.state)

    def release(self) -> None:
        """Take from the model what the trainer wrapped it in, so that another can train it."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)

"""The least of axolotl and torchtitan that the examples rest on, as read in their sources.

Not copies: what a plugin or a subclass can see of the calls, in their order and with their arguments.
"""

import importlib
from dataclasses import dataclass, field
from types import ModuleType
from typing import ClassVar

import torch
from transformers import Trainer


def axolotl():
    """axolotl 0.19.0: integrations/base.py."""

    class BasePlugin:
        def register(self, cfg):
            """Called with the raw configuration before it is validated."""

        def get_input_args(self):
            return None

        def post_trainer_create(self, cfg, trainer):
            """Called between the construction of the trainer and its train(), whose result is not looked at."""

    return {"axolotl.integrations.base": module(BasePlugin=BasePlugin)}


class AxolotlTrainer(Trainer):
    """axolotl 0.19.0: core/trainers/mixins/optimizer.py, create_optimizer where optimizer_cls_and_kwargs is set."""

    def create_optimizer(self, model=None):
        assert self.optimizer_cls_and_kwargs is not None
        optimizer_cls, optimizer_kwargs = self.optimizer_cls_and_kwargs
        lr = optimizer_kwargs["lr"]  # it must be there
        decayed = set(self.get_decay_parameter_names(self.model))
        kinds = {"decayed": [], "embeddings": [], "rest": []}
        for name, param in self.model.named_parameters():
            embedding = "embed_tokens" in name or "lm_head" in name
            kinds["embeddings" if embedding else "decayed" if name in decayed else "rest"].append(param)
        groups = [
            {"params": params, "weight_decay": self.args.weight_decay if kind == "decayed" else 0.0, "lr": lr}
            for kind, params in kinds.items()
        ]
        self.optimizer = optimizer_cls(groups, **optimizer_kwargs)
        return self.optimizer


def load_plugin(name):
    """axolotl 0.19.0: integrations/base.py, load_plugin."""
    module_name, class_name = name.rsplit(".", 1)
    return getattr(importlib.import_module(module_name), class_name)()


def torchtitan():
    """torchtitan 0.3.0: components/optimizer/optimizer.py and config/configurable.py."""

    @dataclass(kw_only=True, slots=True)
    class ParamGroupConfig:
        pattern: str
        optimizer_name: str
        optimizer_kwargs: dict = field(default_factory=dict)

    class OptimizersContainer:
        @dataclass(kw_only=True, slots=True)
        class Config:
            param_groups: list = field(default_factory=list)
            implementation: str = "fused"
            _owner: ClassVar[type]

            def build(self, **objects):
                return self._owner(self, **objects)

        def __init_subclass__(cls):
            cls.Config._owner = cls

        def __init__(self, config, *, model_parts):
            flags = {"fused": config.implementation == "fused", "foreach": config.implementation == "foreach"}
            self.optimizers = []
            for part in model_parts:
                (group,) = config.param_groups
                named = list(part.named_parameters())
                params = {"params": [p for _, p in named], "param_names": [name for name, _ in named]}
                factory = self._resolve_optimizer_factory(group.optimizer_name)
                self.optimizers.append(factory([{**params, **flags, **group.optimizer_kwargs}]))

        @staticmethod
        def _resolve_optimizer_factory(name):
            if name != "AdamW":
                raise NotImplementedError(f"Optimizer {name} not added.")
            return torch.optim.AdamW

    def llama3_debugmodel():
        @dataclass
        class TrainerConfig:
            optimizer: object = None

        return TrainerConfig()

    return {
        "torchtitan.components.optimizer": module(
            OptimizersContainer=OptimizersContainer, ParamGroupConfig=ParamGroupConfig
        ),
        "torchtitan.models.llama3.config_registry": module(llama3_debugmodel=llama3_debugmodel),
    }


def module(**names):
    made = ModuleType("stand_in")
    vars(made).update(names)
    return made

"""MoFO in torchtitan: a container that knows one more name, and a config that asks for it.

PYTHONPATH=examples torchrun --nproc_per_node 8 -m torchtitan.train --module torchtitan_mofo --config debugmodel
"""

from dataclasses import dataclass

from torchtitan.components.optimizer import OptimizersContainer, ParamGroupConfig
from torchtitan.models.llama3.config_registry import llama3_debugmodel

from mofo import MoFO


class MoFOContainer(OptimizersContainer):
    """torchtitan's container of optimizers, whose list of names is closed, with MoFO."""

    @dataclass(kw_only=True, slots=True)
    class Config(OptimizersContainer.Config):
        """As torchtitan's."""

    @staticmethod
    def _resolve_optimizer_factory(name):
        return MoFO if name == "MoFO" else OptimizersContainer._resolve_optimizer_factory(name)


def mofo(**options):
    """A config with one group of all parameters; ``options`` are MoFO's."""
    # torchtitan writes fused and foreach into each group; None lets MoFO choose again
    kwargs = {**options, "fused": None, "foreach": None}
    group = ParamGroupConfig(pattern=".*", optimizer_name="MoFO", optimizer_kwargs=kwargs)
    return MoFOContainer.Config(param_groups=[group])


def debugmodel():
    """Torchtitan's small model for trying things out, tuned with MoFO."""
    config = llama3_debugmodel()
    config.optimizer = mofo(lr=2e-5, fraction=0.15)
    return config

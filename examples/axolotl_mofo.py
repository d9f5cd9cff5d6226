"""MoFO in axolotl: a plugin that gives it to the trainer, with its share of entries as a key of the YAML file.

PYTHONPATH=examples axolotl train examples/axolotl_mofo.yaml
"""

from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel

from mofo import MoFO
from mofo.trainers import MoFOCallback


class MoFOArgs(BaseModel):
    """Keys of the YAML file."""

    mofo_fraction: float = 0.15


class MoFOPlugin(BasePlugin):
    """Makes MoFO the optimizer."""

    def get_input_args(self):
        """Where axolotl finds the keys."""
        return "axolotl_mofo.MoFOArgs"

    def post_trainer_create(self, cfg, trainer):
        """The trainer makes its optimizer later, of this class and with axolotl's parameter groups."""
        if trainer.optimizer_cls_and_kwargs is not None:
            raise ValueError(f"MoFO would replace {cfg.optimizer}: set `optimizer: adamw_torch` in the YAML file")
        trainer.optimizer_cls_and_kwargs = (MoFO, {"lr": trainer.args.learning_rate, "fraction": cfg.mofo_fraction})
        MoFOCallback.attach(trainer)

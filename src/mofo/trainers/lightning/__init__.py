"""Callbacks for Lightning's trainer: what a model forgets, and the extras that hold it at its base."""

from mofo.trainers.lightning.extras import ExtrasCallback
from mofo.trainers.lightning.forgetting import ForgettingCallback

__all__ = ["ExtrasCallback", "ForgettingCallback"]

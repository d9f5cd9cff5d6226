"""How long a training by Lightning is to be."""

from __future__ import annotations

import math

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer


def planned_steps(trainer: Trainer) -> int | None:
    """Return the step that is to be the last, or None where nobody can know."""
    try:
        steps = trainer.estimated_stepping_batches
    except MisconfigurationException:  # another accumulation of gradients in each epoch
        return None
    return int(steps) if 0 < steps < math.inf else None

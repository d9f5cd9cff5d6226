"""How long a text a model can read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def position_limit(config: PreTrainedConfig) -> int:
    """Return the most tokens of a text that a model was made for; `sys.maxsize` if its configuration has no limit.

    Where positions are learned, as in GPT-2, there are no others.
    """
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit or sys.maxsize

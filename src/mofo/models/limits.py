"""How long a text a model can read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def position_limit(config: PreTrainedConfig) -> int:
    """Return the most tokens of a text that a model was made for; `sys.maxsize` if its configuration has no limit.

    Where positions are learned, as in GPT-2, there are no others. Recurrent models have no limit.
    """
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit or sys.maxsize


def folder_positions(folder: Path, *, trust_remote_code: bool = False) -> int | None:
    """Return `position_limit` of a model that is not loaded; None if it has no limit, or its configuration is not read.

    Args:
        folder: The model's folder.
        trust_remote_code: Whether code that comes with the model may run.
    """
    from transformers import AutoConfig

    try:
        limit = position_limit(AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code))
    except (OSError, ValueError, KeyError):  # loading the model will say what is wrong
        return None
    return None if limit == sys.maxsize else limit

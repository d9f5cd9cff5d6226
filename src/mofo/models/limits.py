"""What a model can read: how long a text, and which tokens."""

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
    config = _config(folder, trust_remote_code=trust_remote_code)
    limit = sys.maxsize if config is None else position_limit(config)
    return None if limit == sys.maxsize else limit


def folder_tokens(folder: Path, *, trust_remote_code: bool = False) -> int | None:
    """Return how many tokens a model knows that is not loaded, from 0 on; None if its configuration does not say it.

    Args:
        folder: The model's folder.
        trust_remote_code: Whether code that comes with the model may run.
    """
    config = _config(folder, trust_remote_code=trust_remote_code)
    tokens: int | None = None if config is None else getattr(config.get_text_config(), "vocab_size", None)
    return tokens


def _config(folder: Path, *, trust_remote_code: bool) -> PreTrainedConfig | None:
    """Return a folder's configuration; None if it cannot be read, of which loading the model will say why."""
    from transformers import AutoConfig

    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError):
        return None
    return config

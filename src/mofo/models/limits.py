"""What a model can read: how long a text, and which tokens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def position_limit(config: PreTrainedConfig) -> int:
    """Return the most tokens of a text that a model was made for; `sys.maxsize` if its configuration has no limit.

    Where positions are learned, as in GPT-2, there are no others. Recurrent models have no limit.
    """
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit or sys.maxsize


class Limits(NamedTuple):
    """What a model that is not loaded can take; None where it has no limit, or its configuration is not read.

    Attributes:
        positions: The most tokens of a text.
        tokens: Rows of its vocabulary: the ids that it knows lie below.
    """

    positions: int | None
    tokens: int | None


def folder_limits(folder: Path, *, trust_remote_code: bool = False) -> Limits:
    """Return the limits of a model that is not loaded.

    Args:
        folder: The model's folder.
        trust_remote_code: Whether code that comes with the model may run.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError):  # loading the model will say what is wrong
        return Limits(None, None)
    positions = position_limit(config)
    tokens: int | None = getattr(config.get_text_config(), "vocab_size", None)
    return Limits(None if positions == sys.maxsize else positions, tokens)

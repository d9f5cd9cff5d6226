"""How long a text a model can take."""

from __future__ import annotations

from pathlib import Path


def max_positions(folder: Path, *, trust_remote_code: bool = False) -> int | None:
    """Return the most tokens that a model was made for; None if its configuration names no limit.

    Args:
        folder: The model's folder.
        trust_remote_code: Whether code that comes with the model may run.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code).get_text_config()
    except (OSError, ValueError, KeyError):  # loading the model will say what is wrong
        return None
    positions = getattr(config, "max_position_embeddings", None)  # recurrent models have none
    return positions if isinstance(positions, int) and positions > 0 else None

"""Text that the base writes, for parts that remind the model of what it was without any pre-training data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from mofo.methods.part import Setup

SEED = 1
"""Another than that of the divergence probe (0), so that no method trains on the text that it is measured on."""


def base_text(base: PreTrainedModel, setup: Setup, *, texts: int, tokens: int) -> Tensor:
    """Return text that the base wrote, made once for a comparison.

    Args:
        base: The base, asked only the first time.
        setup: The run.
        texts: Number of texts.
        tokens: Tokens sampled for each.

    Returns:
        Token ids, (texts, start + tokens), int64: each row begins with what the tokenizer puts before a text.
    """
    import torch

    from mofo.measure.writing import write_texts

    def write() -> dict[str, Tensor]:
        written = write_texts(base, setup.tokenizer, texts=texts, tokens=tokens, seed=SEED)
        return {"ids": torch.tensor(written)}

    return setup.once(f"base-text-{texts}x{tokens}", write, shared=True)["ids"]

"""Text that the base writes, for parts that remind the model of what it was without any pre-training data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mofo.methods.part import Setup

SEED = 1
"""Another than that of the divergence probe (0), so that no method trains on the text that it is measured on."""


Form = Literal["free", "chat"]
"""What the base writes: text from nothing, or a conversation, the user's turn too (Magpie, arXiv 2406.08464)."""


def start_of(form: Form, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that texts of a form begin with.

    Raises:
        UserError: Conversations are asked for, and the tokenizer has no chat template.
    """
    from mofo.data.conversation import conversation_start
    from mofo.measure.writing import text_start

    return conversation_start(tokenizer) if form == "chat" else text_start(base, tokenizer)


def base_text(base: PreTrainedModel, setup: Setup, *, texts: int, tokens: int, form: Form = "free") -> Tensor:
    """Return text that the base wrote, made once for a comparison.

    Args:
        base: The base, asked only the first time.
        setup: The run.
        texts: Number of texts.
        tokens: Tokens sampled for each.
        form: What the base writes.

    Returns:
        Token ids, (texts, start + tokens), int64: each row begins with `start_of` its form.

    Raises:
        UserError: Conversations are asked for, and the tokenizer has no chat template.
    """
    import torch

    from mofo.measure.writing import write_texts

    def write() -> dict[str, Tensor]:
        start = start_of(form, base, setup.tokenizer)
        written = write_texts(base, setup.tokenizer, texts=texts, tokens=tokens, seed=SEED, start=start)
        return {"ids": torch.tensor(written)}

    name = f"base-{'text' if form == 'free' else form}-{texts}x{tokens}"
    return setup.once(name, write, shared=True)["ids"]

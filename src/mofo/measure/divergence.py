"""Divergence from the base on text that the base itself wrote: has the model become another one?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mofo.measure.scoring import TOKENS_PER_BATCH, by_positions, inference


def write_texts(base: Any, tokenizer: Any, *, texts: int = 16, tokens: int = 128, seed: int = 0) -> list[list[int]]:
    """Let the base write: sample at temperature 1 from the start of a text, all texts in one batch.

    Nothing is cut off the distribution and an end of text is an ordinary token after which the next one
    begins, so the texts are what the base believes text to be, and all are of one length.

    Args:
        base: The base model.
        tokenizer: Its tokenizer, which knows how a text starts.
        texts: How many texts.
        tokens: How many tokens are sampled for each.
        seed: Seed of the sampling; the global random state is neither read nor changed.

    Returns:
        Token ids, each list with its start and then `tokens` sampled ids.
    """
    start = tokenizer("")["input_ids"] or [first_token(tokenizer)]
    generator = torch.Generator().manual_seed(seed)
    steps = [torch.tensor(start).expand(texts, -1)]
    cache = None
    with inference(base):
        for _ in range(tokens):
            output = base(input_ids=steps[-1].to(base.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            probabilities = output.logits[:, -1].float().softmax(dim=-1).cpu()
            steps.append(torch.multinomial(probabilities, 1, generator=generator))
    return torch.cat(steps, dim=1).tolist()


def first_token(tokenizer: Any) -> int:
    """Return the token that stands before the first one of a text: the start token, or else an end token."""
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


class DivergenceProbe:
    """KL(base ‖ tuned) per token, exact over the vocabulary, on text that the base wrote.

    Since the text is a sample of the base, the mean over its positions estimates the divergence between the
    two models as distributions over text: how far the tuned one is from the base where the base would go.

    The base's logits are computed once and kept in memory in the precision the model gives them:
    positions × vocabulary entries, 2048 × 49152 (200 MB at bfloat16, 400 MB at float32) for SmolLM2.
    The base measured again in the same precision gives exactly 0.

    Args:
        name: Name of the probe.
        base: The base model; it is not kept.
        written: Token ids of the texts, all of one length, as `write_texts` returns them.
    """

    def __init__(self, name: str, base: Any, written: list[list[int]]) -> None:
        self.name = name
        self.written = written
        rows = max(1, TOKENS_PER_BATCH // len(written[0]))
        # the logits at the last token would predict what was never written
        self._batches = torch.tensor(written)[:, :-1].split(rows)
        with inference(base):
            self._base_logits = [self._logits(base, batch).cpu() for batch in self._batches]

    def measure(self, model: Any) -> dict[str, float]:
        """Return `kl` in nats per token; lower is nearer to the base."""
        total = 0.0
        with inference(model):
            for batch, base_logits in zip(self._batches, self._base_logits, strict=True):
                total += divergence(base_logits, self._logits(model, batch))
        return {"kl": total / sum(batch.numel() for batch in self._batches)}

    @staticmethod
    def _logits(model: Any, batch: Tensor) -> Tensor:
        return model(input_ids=batch.to(model.device), use_cache=False).logits


def divergence(base: Tensor, tuned: Tensor) -> float:
    """Sum over all positions of KL(base ‖ tuned) in nats, from logits `[..., vocabulary]`."""
    total = 0.0
    for p, q in zip(by_positions(base), by_positions(tuned), strict=True):
        log_p, log_q = p.to(q.device).float().log_softmax(dim=-1), q.float().log_softmax(dim=-1)
        total += float(F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(dim=-1).sum(dtype=torch.float64))
    return total

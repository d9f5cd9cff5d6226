"""Divergence from the base on text that the base itself wrote: has the model become another one?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mofo.errors import UserError
from mofo.measure.mean import Mean
from mofo.measure.probe import Base, Probe
from mofo.measure.scoring import TOKENS_PER_BATCH, by_positions, inference, reusable_cache
from mofo.models.limits import position_limit
from mofo.results import Metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class DivergenceProbe(Probe):
    """KL(base ‖ tuned) per token, exact over the vocabulary, on text that the base wrote.

    Since the text is a sample of the base, the mean over its positions estimates the divergence between the two models
    as distributions over text: how far the tuned one is from the base where the base would go.

    The base's logits are computed once and kept in memory in the precision the model gives them: positions ×
    vocabulary entries, 2048 × 49152 (200 MB at bfloat16, 400 MB at float32) for SmolLM2. The base measured again in
    the same precision gives exactly 0.

    Args:
        name: Name of the probe.
        base: The base model; it is not kept.
        texts: Token ids of the texts, all of one length, as `write_texts` returns them.
    """

    usage = ("divergence",)
    numbers = "divergence in nats per token"
    better = "lower"
    cost = "a pass over 2048 tokens, which the base writes once; keeps its logits"

    def __init__(self, name: str, base: PreTrainedModel, texts: list[list[int]]) -> None:
        super().__init__(name)
        self.texts = texts
        rows = max(1, TOKENS_PER_BATCH // len(texts[0]))
        # The logits at the last token would predict what was never written.
        self._batches = torch.tensor(texts)[:, :-1].split(rows)
        with inference(base):
            self._base_logits = [self._logits(base, batch).cpu() for batch in self._batches]

    @classmethod
    def check(cls, argument: str) -> None:
        """Check that nothing follows the kind: the base itself writes the text."""
        if argument:
            raise UserError(f"The probe `divergence` takes no file, not `{argument}`: the base writes its text.")

    @classmethod
    def make(cls, name: str, argument: str, base: Base, state: Any) -> DivergenceProbe:
        """Return a probe on the texts in `state`, or on texts that the base writes now."""
        texts = write_texts(base.model, base.tokenizer, seed=base.seed) if state is None else state
        return cls(name, base.model, texts)

    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """Return `kl` in nats per token; lower is nearer to the base. Its units are the texts."""
        totals: list[float] = []
        with inference(model):
            for batch, base_logits in zip(self._batches, self._base_logits, strict=True):
                totals += divergences(base_logits, self._logits(model, batch))
        return {"kl": Mean(totals, [batch.shape[1] for batch in self._batches for _ in batch])}

    @property
    def metrics(self) -> list[Metric]:
        """The divergence."""
        return [
            Metric(
                kind="forgotten",
                source=self.name,
                name="kl",
                label=self.name,
                description=f"KL(base ‖ tuned) on {len(self.texts)} texts that the base wrote: how differently the "
                "model now continues them",
                unit="nats per token",
            )
        ]

    def state(self) -> list[list[int]]:
        """Return the texts."""
        return self.texts

    @staticmethod
    def _logits(model: PreTrainedModel, batch: Tensor) -> Tensor:
        logits: Tensor = model(input_ids=batch.to(model.device), use_cache=False).logits
        return logits


def write_texts(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, texts: int = 16, tokens: int = 128, seed: int = 0
) -> list[list[int]]:
    """Sample texts from the base at temperature 1, from the start of a text, all in one batch.

    Nothing is cut off the distribution, and an end of text is an ordinary token after which the next one begins, so
    the texts are what the base believes text to be, and all are of one length.

    Args:
        base: The base model.
        tokenizer: Its tokenizer, which knows how a text starts.
        texts: Number of texts.
        tokens: Number of tokens to sample for each.
        seed: Seed of the sampling; the global random state is neither read nor changed.

    Returns:
        Token ids of each text: its start and then `tokens` sampled ids, or as many as the base has positions for.
    """
    start = tokenizer("")["input_ids"] or [first_token(base, tokenizer)]
    generator = torch.Generator().manual_seed(seed)
    tokens = min(tokens, position_limit(base.config) - len(start) + 1)  # the last token is not read
    written = torch.tensor(start).expand(texts, -1)
    cache, unread = None, written
    with inference(base):
        for _ in range(tokens):
            # `past_key_values=None` would be an unknown argument to models that have another kind of cache.
            past: dict[str, Any] = {} if cache is None else {"past_key_values": cache}
            output = base(input_ids=unread.to(base.device), use_cache=True, logits_to_keep=1, **past)
            probabilities = output.logits[:, -1].float().softmax(dim=-1).cpu()
            drawn = torch.multinomial(probabilities, 1, generator=generator)
            written = torch.cat([written, drawn], dim=1)
            cache = reusable_cache(output)
            unread = written if cache is None else drawn
    ids: list[list[int]] = written.tolist()
    return ids


def first_token(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that stands before the first one of a text: the start token, or else the end token.

    Raises:
        UserError: Neither the tokenizer nor the model's configuration has one.
    """
    config = base.config.get_text_config()
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id, config.bos_token_id, config.eos_token_id)
    for token in known:
        if token is not None:
            return int(token[0] if isinstance(token, list) else token)
    raise UserError("The probe `divergence` has the base write from the start of a text, but it has no start token.")


def divergences(base: Tensor, tuned: Tensor) -> list[float]:
    """Return for each text the sum over its positions of KL(base ‖ tuned) in nats.

    Args:
        base: Logits of the base, `[texts, length, vocabulary]`.
        tuned: Logits of the tuned model.
    """
    positions = []
    for p, q in zip(by_positions(base), by_positions(tuned), strict=True):
        log_p, log_q = p.to(q.device).float().log_softmax(dim=-1), q.float().log_softmax(dim=-1)
        positions.append(F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(dim=-1))
    sums: list[float] = torch.cat(positions).view(base.shape[:-1]).sum(dim=1, dtype=torch.float64).tolist()
    return sums

"""Divergence from the base on text that the base itself wrote: has the model become another one?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mofo.measure import share
from mofo.measure.mean import Mean
from mofo.measure.probe import Base, Options, Probe
from mofo.measure.scoring import TOKENS_PER_BATCH, by_positions, inference
from mofo.measure.writing import TEXT_TOKENS, TEXTS, answer_prompts, read_prompts, write_texts
from mofo.results import Metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class DivergenceProbe(Probe):
    """KL(base ‖ tuned) per token, exact over the vocabulary, on text that the base wrote.

    Since the text is a sample of the base, the mean over its positions estimates the divergence between the two models
    as distributions over text: how far the tuned one is from the base where the base would go.

    The base's logits are computed once and kept in memory in the precision the model gives them: positions ×
    vocabulary entries, 2048 × 49152 (200 MB at bfloat16, 400 MB at float32) for SmolLM2. The base measured again in
    the same precision gives exactly 0.

    After `divergence:FILE.jsonl` the base answers prompts of one's own instead of writing freely, and its answers
    count: another kind of text than the one that methods train on which have the base write (self-distillation, EWC).

    Args:
        name: Name of the probe.
        base: The base model; it is not kept.
        texts: Token ids of the texts. Those of `write_texts` are all of one length.
        starts: Length of the prompt of each text, which does not count; by default there are none, and all positions
            count.
    """

    usage = ("divergence", "divergence:FILE.jsonl")
    numbers = "divergence in nats per token"
    better = "lower"
    cost = "a pass over about 2048 tokens, which the base writes once; keeps its logits"
    kept_positions = TEXTS * TEXT_TOKENS

    def __init__(
        self, name: str, base: PreTrainedModel, texts: list[list[int]], starts: list[int] | None = None
    ) -> None:
        super().__init__(name)
        self.texts, self.starts = texts, starts
        # The logits at the last token would predict what was never written.
        if starts is None:
            rows = max(1, TOKENS_PER_BATCH // len(texts[0]))
            self._batches = [(batch, 0) for batch in torch.tensor(texts)[:, :-1].split(rows)]
        else:
            self._batches = [
                (torch.tensor([text])[:, :-1], start - 1) for text, start in zip(texts, starts, strict=True)
            ]
        with inference(base):
            self._base_logits = {
                number: self._logits(base, *self._batches[number]).cpu() for number in share.own(len(self._batches))
            }

    @classmethod
    def check(cls, argument: str, options: Options) -> None:
        """Check that the file of prompts, if one is given, can be read."""
        if argument:
            read_prompts(argument)

    @classmethod
    def make(cls, name: str, argument: str, base: Base, state: Any) -> DivergenceProbe:
        """Return a probe on the texts in `state`, or on texts that the base writes now."""
        if not argument:
            texts = write_texts(base.model, base.tokenizer, seed=base.seed) if state is None else state
            return cls(name, base.model, texts)
        if state is None:
            texts, starts = answer_prompts(base.model, base.tokenizer, read_prompts(argument), seed=base.seed)
        else:
            texts, starts = state["texts"], state["starts"]
        return cls(name, base.model, texts, starts)

    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """Return `kl` in nats per token; lower is nearer to the base. Its units are the texts."""
        found: dict[int, list[float]] = {}
        with inference(model):
            for number in share.own(len(self._batches)):
                logits = self._logits(model, *self._batches[number])
                found[number] = divergences(self._base_logits[number], logits)
        found = share.merged(found)
        counts = [batch.shape[1] - first for batch, first in self._batches for _ in batch]
        return {"kl": Mean([total for number in range(len(self._batches)) for total in found[number]], counts)}

    @property
    def metrics(self) -> list[Metric]:
        """The divergence."""
        written = "texts" if self.starts is None else "answers to prompts of your own"
        return [
            Metric(
                kind="forgotten",
                source=self.name,
                name="kl",
                label=self.name,
                description=f"KL(base ‖ tuned) on {len(self.texts)} {written} that the base wrote: how differently "
                "the model now continues them",
                unit="nats per token",
            )
        ]

    def kept(self) -> dict[str, Tensor]:
        """Return the base's logits on this process's share of the texts."""
        return {f"logits.{number}": logits for number, logits in self._base_logits.items()}

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Take the base's logits from there."""
        self._base_logits = {number: kept[f"logits.{number}"] for number in share.own(len(self._batches))}

    def state(self) -> Any:
        """Return the texts, and where their prompts end if they have any."""
        return self.texts if self.starts is None else {"texts": self.texts, "starts": self.starts}

    @staticmethod
    def _logits(model: PreTrainedModel, batch: Tensor, first: int) -> Tensor:
        """Return the logits from position `first` on, `[rows, length - first, vocabulary]`."""
        logits: Tensor = model(input_ids=batch.to(model.device), use_cache=False).logits
        return logits[:, first:].clone() if first else logits  # a view would keep those of the prompt in memory


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

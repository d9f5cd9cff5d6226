"""Losses that weigh the task's tokens: by the base, by the model itself, or beside a pull towards the base."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mofo.data.tokens import IGNORED, Example
from mofo.errors import UserError
from mofo.methods.part import Part, Setup, setting

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class TokenMask(Part):
    """The loss counts only tokens whose perplexity under the base is at most a threshold."""

    name = "token-mask"
    label = "token mask"
    source = "arXiv 2501.14315"
    cost = "one forward pass of the base over the training rows, once"

    perplexity: float = setting(2.5, "highest perplexity 1/p of a token that counts", short="ppl", gt=1)

    def prepare(self, model: PreTrainedModel, setup: Setup) -> PreTrainedModel:
        """Score the task's tokens while the model is still the base."""
        import torch

        from mofo.measure.scoring import batches, inference, log_likelihoods, pad

        distinct = list({tuple(row["input_ids"]): row for row in setup.rows}.values())

        def score() -> dict[str, Tensor]:
            kept: dict[int, Tensor] = {}
            with inference(model):
                for numbers in batches([len(row["input_ids"]) for row in distinct]):
                    inputs = pad([distinct[n]["input_ids"] for n in numbers], 0)
                    log_p = log_likelihoods(model, inputs, inputs).cpu()
                    for n, values in zip(numbers, log_p, strict=True):
                        # the first token is predicted from nothing: it is kept where it is labelled
                        own = values[: len(distinct[n]["input_ids"]) - 1] >= -math.log(self.perplexity)
                        kept[n] = torch.cat([torch.ones(1, dtype=torch.bool), own])
            return {"kept": torch.cat([kept[n] for n in range(len(distinct))])}

        kept = setup.once("token-mask", score)["kept"].cpu()
        if not kept.sum() > len(distinct):  # the first token of each row is kept and never predicted
            raise UserError(
                f"token-mask.perplexity is {self.perplexity:g}, and no token of the rows is as likely as that to the "
                "base: raise it."
            )
        parts = kept.split([len(row["input_ids"]) for row in distinct])
        setup.scratch[self.name] = {tuple(row["input_ids"]): p for row, p in zip(distinct, parts, strict=True)}
        return model

    def rows(self, rows: list[Example], setup: Setup) -> list[Example]:
        """Return the rows with the unlikely tokens unlabelled; rows that other parts put in are left alone."""
        masks: dict[tuple[int, ...], Tensor] = setup.scratch[self.name]

        def masked(row: Example) -> Example:
            mask = masks.get(tuple(row["input_ids"]))
            if mask is None:
                return row
            labels = [label if keep else IGNORED for label, keep in zip(row["labels"], mask.tolist(), strict=True)]
            return Example(
                input_ids=row["input_ids"], labels=labels, prompt_ids=row["prompt_ids"], answer=row["answer"]
            )

        return [masked(row) for row in rows]


class DFT(Part):
    """Dynamic fine-tuning: the loss of each token is weighted by its own probability, −p·log p with p held fixed."""

    name = "dft"
    label = "DFT"
    source = "arXiv 2508.05629"
    cost = "nothing"

    def loss(self, loss: Tensor, logits: Tensor, inputs: Mapping[str, Tensor], tokens: Tensor, setup: Setup) -> Tensor:
        """Return the weighted loss."""
        log_p = label_log_probabilities(logits, inputs["labels"])
        return -(log_p.exp().detach() * log_p).sum() / tokens


class Anchor(Part):
    """λ·KL(base ‖ tuned) on the task's own labelled tokens, added to the loss; a copy of the base is kept in memory."""

    name = "anchor"
    label = "anchor"
    source = "arXiv 2509.23753"
    cost = "a copy of the base in memory and one more forward pass a step"

    weight: float = setting(0.1, "weight λ of the divergence", label="λ", short="w", ge=0)

    def prepare(self, model: PreTrainedModel, setup: Setup) -> PreTrainedModel:
        """Keep a copy of the base."""
        setup.scratch[self.name] = copy.deepcopy(model).eval().requires_grad_(False)
        return model

    def loss(self, loss: Tensor, logits: Tensor, inputs: Mapping[str, Tensor], tokens: Tensor, setup: Setup) -> Tensor:
        """Return the loss with the divergence added."""
        import torch

        base: PreTrainedModel = setup.scratch[self.name]
        counts = inputs["labels"][:, 1:] != IGNORED
        with torch.no_grad():
            given = {name: value for name, value in inputs.items() if name != "labels"}
            log_p = base(**given).logits[:, :-1][counts].float().log_softmax(dim=-1)
        log_q = logits[:, :-1][counts].float().log_softmax(dim=-1)
        divergence: Tensor = (log_p.exp() * (log_p - log_q)).sum()
        return loss + self.weight * divergence / tokens


def label_log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log-probability of each labelled token in nats, (labelled tokens,), from logits (rows, length, v)."""
    targets = labels[:, 1:]
    counts = targets != IGNORED
    return logits[:, :-1][counts].float().log_softmax(dim=-1).gather(-1, targets[counts][:, None]).squeeze(-1)

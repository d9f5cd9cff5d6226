"""Self-distillation: the tuned model is to predict, on text that the base wrote, what the base predicts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from mofo.methods.base_text import Form, base_text, start_of
from mofo.methods.part import Part, Setup, setting

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class SelfDistill(Part):
    """λ·KL(base ‖ tuned) per token on text that the base wrote, added to the loss.

    The base writes text from nothing, conversations in its chat template (the user's turn too), or half of each; the
    last is what it does where there is a template. A few texts a step out of a bank that is written once, large enough
    that no text comes twice, up to `texts`. The base's log-probabilities on them are cached, so that no second model is
    needed: the `top` likeliest tokens of each position, and the rest as one. That divergence is a lower bound of the
    whole one.
    """

    name = "self-distill"
    label = "self-distillation"
    source = "arXiv 2605.26097"
    cost = "one more forward and backward pass over per_step × tokens tokens a step, in each process; the bank"
    across_processes = True

    weight: float = setting(1.0, "weight λ of the divergence", label="λ", short="w", ge=0)
    form: Literal["auto", "free", "chat", "mixed"] = setting(
        "auto",
        "what the base writes: text from nothing (free), conversations (chat), half of each (mixed); auto is mixed "
        "where there is a chat template, and free where there is none",
        variants={"free": "on text", "chat": "on conversations", "mixed": "on text and conversations"},
    )
    texts: int = setting(512, "the most texts in the bank; it has no more than the steps take", ge=1)
    tokens: int = setting(128, "tokens of each text", ge=1)
    per_step: int = setting(2, "texts of an optimizer step", ge=1)
    every: int = setting(1, "add it only in every Nth step, N times as heavy", ge=1)
    top: int = setting(
        64,
        "likeliest tokens of a position that are told apart; 0 for the whole vocabulary, of which the bank then keeps "
        "4 bytes × tokens × vocabulary a text",
        ge=0,
    )

    def prepare(self, model: PreTrainedModel, setup: Setup) -> PreTrainedModel:
        """Write the bank while the model is still the base."""
        self._bank(setup, model)
        return model

    def penalty(self, model: PreTrainedModel, step: int, setup: Setup) -> Tensor | None:
        """Return λ times the mean divergence per token of this step's texts."""
        if step % self.every:
            return None
        bank = self._bank(setup, model)
        rows = self._rows(step // self.every, setup)
        logits = model(input_ids=bank["ids"][rows, :-1], use_cache=False).logits
        log_q = logits.float().log_softmax(dim=-1)
        if self.top:
            log_q = with_rest(log_q.gather(-1, bank["tokens"][rows].long()))
        log_p = bank["log_p"][rows]
        divergence: Tensor = (log_p.exp() * (log_p - log_q)).sum(dim=-1)[bank["written"][rows]].mean()
        return self.weight * self.every * divergence

    def _rows(self, turn: int, setup: Setup) -> Tensor:
        """Return which texts are next, (per_step,): in another order for each task and each way through the bank."""
        import torch

        size = self._size(setup)

        def text(place: int) -> Tensor:
            generator = torch.Generator().manual_seed(setup.seed + 1_000_003 * (setup.task + place // size))
            return torch.randperm(size, generator=generator)[place % size]

        places = range(turn * self.per_step, (turn + 1) * self.per_step)
        return torch.stack([text(place) for place in places]).to(setup.device)

    def _size(self, setup: Setup) -> int:
        """Return the number of texts in the bank."""
        if setup.steps is None:
            return self.texts
        turns = math.ceil(setup.steps / self.every)
        return min(self.texts, turns * self.per_step)

    def _bank(self, setup: Setup, base: PreTrainedModel) -> dict[str, Tensor]:
        """Return `ids` of the texts, and of each position but the last `tokens` and `log_p` of the base.

        `written` tells at which positions the base predicts what it wrote itself, and not the start of a conversation.
        """
        import torch

        from mofo.measure.scoring import inference

        def make() -> dict[str, Tensor]:
            ids, written = self._texts(setup, base)
            found: dict[str, list[Tensor]] = {"tokens": [], "log_p": []}
            with inference(base):
                for text in ids.split(4):
                    log_p = (
                        base(input_ids=text[:, :-1].to(setup.device), use_cache=False).logits.float().log_softmax(-1)
                    )
                    if self.top:
                        log_p, tokens = log_p.topk(self.top, dim=-1)
                        log_p = with_rest(log_p)
                        found["tokens"].append(tokens.int().cpu())
                    found["log_p"].append(log_p.cpu())
            cached = {key: torch.cat(values) for key, values in found.items() if values}
            return {"ids": ids.cpu(), "written": written.cpu()} | cached

        form = "-".join(self._forms(setup))
        return setup.once(f"self-distill-{form}-{self._size(setup)}x{self.tokens}-top{self.top}", make, shared=True)

    def _forms(self, setup: Setup) -> tuple[Form, ...]:
        """Return the forms of the texts."""
        if self.form == "mixed" or (self.form == "auto" and setup.tokenizer.chat_template is not None):
            return ("free", "chat")
        return ("chat",) if self.form == "chat" else ("free",)

    def _texts(self, setup: Setup, base: PreTrainedModel) -> tuple[Tensor, Tensor]:
        """Return the token ids of the texts, all of one length, and where what the base wrote is predicted."""
        import torch

        forms, size = self._forms(setup), self._size(setup)
        starts = [len(start_of(form, base, setup.tokenizer)) for form in forms]
        numbers = [size] if len(forms) == 1 else [size - size // 2, size // 2]
        ids, written = [], []
        for form, start, number in zip(forms, starts, numbers, strict=True):
            tokens = self.tokens + max(starts) - start
            if number:
                ids.append(base_text(base, setup, texts=number, tokens=tokens, form=form))
                predicts = torch.arange(ids[-1].shape[1] - 1) >= start - 1
                written.append(predicts.expand(number, -1))
        return torch.cat(ids), torch.cat(written)


def with_rest(log_p: Tensor) -> Tensor:
    """Return log-probabilities (..., k) of some tokens, and that of all others together as one more: (..., k + 1)."""
    import torch

    rest = (1 - log_p.exp().sum(dim=-1, keepdim=True)).clamp(min=1e-7)
    return torch.cat([log_p, rest.log()], dim=-1)

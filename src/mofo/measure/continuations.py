"""How probable texts are as continuations of a prompt: what every question with choices is scored by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from mofo.data.tokens import IGNORED
from mofo.measure import share
from mofo.measure.progress import report
from mofo.measure.scoring import batches, by_positions, pad, reusable_cache, token_log_probabilities

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class Tokenized(NamedTuple):
    """Token ids of a question: of its prompt, and of each choice as it continues the prompt."""

    prompt: list[int]
    choices: list[list[int]]


class Scored(NamedTuple):
    """A continuation under a model.

    Attributes:
        log_probability: Its log-probability given the prompt, in nats.
        tokens: Its number of tokens.
        greedy: Whether each of its tokens is the most probable one.
    """

    log_probability: float
    tokens: int
    greedy: bool

    @property
    def per_token(self) -> float:
        """Its log-probability per token, in nats."""
        return self.log_probability / self.tokens


def score_continuations(model: PreTrainedModel, questions: Sequence[Tokenized], what: str) -> list[list[Scored]]:
    """Return the scores of each choice of each question; call it without gradients.

    Questions are grouped by the length of their prompt: prompts of one length need no padding.

    Args:
        model: A causal language model.
        questions: The questions.
        what: What is asked, for those who watch the progress.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, question in enumerate(questions):
        by_length[len(question.prompt)].append(number)
    together = [
        [numbers[row] for row in rows]
        for length, numbers in by_length.items()
        for rows in batches([length + sum(map(len, questions[number].choices)) for number in numbers])
    ]
    scores: dict[int, list[Scored]] = {}
    for place in share.own(len(together)):
        batch = together[place]
        scores.update(zip(batch, score_batch(model, [questions[number] for number in batch]), strict=True))
        report(what, len(scores), len(questions))
    scores = share.merged(scores)
    return [scores[number] for number in range(len(questions))]


def score_batch(model: PreTrainedModel, questions: Sequence[Tokenized]) -> list[list[Scored]]:
    """Return the scores of each choice of questions whose prompts are of one length.

    Each prompt runs once. Its last position predicts the first token of every choice; for the others the choices run as
    continuations of the prompt's cached keys and values, or after the prompt again where the cache cannot be reused.
    """
    device = model.device
    owner = [row for row, question in enumerate(questions) for _ in question.choices]
    flat = [choice for question in questions for choice in question.choices]
    prompts = [question.prompt for question in questions]
    longer = [row for row, choice in enumerate(flat) if len(choice) > 1]

    output = model(input_ids=torch.tensor(prompts, device=device), logits_to_keep=1, use_cache=bool(longer))
    first = output.logits[:, -1].float().log_softmax(dim=-1)
    starts = torch.tensor([choice[0] for choice in flat], device=device)
    totals = first[owner, starts].double()
    greedy = first.argmax(dim=-1)[owner] == starts

    if longer:
        inputs = pad([flat[row][:-1] for row in longer], 0).to(device)
        targets = pad([flat[row][1:] for row in longer], IGNORED).to(device)
        owners = [owner[row] for row in longer]
        cache = reusable_cache(output)
        if cache is None:
            inputs = torch.cat([torch.tensor([prompts[row] for row in owners], device=device), inputs], dim=1)
            logits = model(input_ids=inputs, logits_to_keep=targets.shape[1], use_cache=False).logits
        else:
            cache.batch_select_indices(torch.tensor(owners, device=device))
            logits = model(input_ids=inputs, past_key_values=cache, use_cache=True).logits
        totals[longer] += token_log_probabilities(logits, targets).sum(dim=1, dtype=torch.float64)
        greedy[longer] &= _most_probable(logits, targets)
    elif share.is_shared():  # the other processes may need this one in their second forward pass
        model(input_ids=torch.tensor([prompts[0]], device=device), logits_to_keep=1, use_cache=False)

    scores = zip(totals.tolist(), map(len, flat), greedy.tolist(), strict=True)
    return [[Scored(*next(scores)) for _ in question.choices] for question in questions]


def _most_probable(logits: Tensor, targets: Tensor) -> Tensor:
    """Return for each row whether all of its targets are the most probable tokens."""
    best = torch.cat([piece.argmax(dim=-1) for piece in by_positions(logits)]).view_as(targets)
    return ((best == targets) | (targets == IGNORED)).all(dim=1)

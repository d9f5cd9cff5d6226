"""Log-probabilities of tokens under a model, in batches: what every probe rests on.

Rows are padded on the right. A causal model cannot look ahead, so padding there changes nothing before it,
and neither an attention mask nor position ids are needed.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from mofo.data.tokens import IGNORED, Labelled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor, nn

TOKENS_PER_BATCH = 1024
"""Enough to keep two cores or a GPU busy; the logits of a 49k vocabulary take 200 MB at float32."""

POSITIONS = 16
"""Positions whose logits are turned into float32 log-probabilities at once."""


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Run `model` in eval mode and without gradients, and give it back in the mode it was in."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def held_out_loss(model: Any, examples: Iterable[Labelled]) -> dict[str, float]:
    """Mean negative log-likelihood of the labelled tokens, each token weighing the same.

    Args:
        model: A transformers causal language model.
        examples: Rows of `input_ids` and `labels`; the shift by one happens here.

    Returns:
        `loss` in nats per token, and `tokens`, how many were counted.

    Raises:
        ValueError: No token is labelled.
    """
    examples = list(examples)
    total, tokens = 0.0, 0
    with inference(model):
        for rows in batches([len(example["input_ids"]) for example in examples]):
            inputs = pad([examples[row]["input_ids"] for row in rows], 0)
            labels = pad([examples[row]["labels"] for row in rows], IGNORED)
            total -= float(log_likelihoods(model, inputs, labels).sum(dtype=torch.float64))
            tokens += int((labels[:, 1:] != IGNORED).sum())
    if tokens == 0:
        raise ValueError("no labelled token in the examples: there is no loss to measure")
    return {"loss": total / tokens, "tokens": tokens}


def log_likelihoods(model: Any, inputs: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of every labelled token given what stands before it.

    Args:
        model: A transformers causal language model.
        inputs: Token ids, `[rows, length]`, padded on the right.
        labels: The same ids, `IGNORED` where a token does not count.

    Returns:
        Float32 nats, `[rows, positions]` with the positions at which any row has a label; 0 where this row
        has none.
    """
    targets = labels[:, 1:]
    positions = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
    if len(positions) == 0:
        return torch.zeros(len(inputs), 0)
    # the last needed position needs nothing after it, and the vocabulary is the dearest layer of a small model
    inputs = inputs[:, : int(positions[-1]) + 1].to(model.device)
    positions = positions.to(model.device)
    logits = model(input_ids=inputs, logits_to_keep=positions, use_cache=False).logits
    return token_log_probabilities(logits, targets.to(model.device)[:, positions])


def token_log_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of `targets` `[rows, length]` under `logits` `[rows, length, vocabulary]`.

    Float32 nats, `[rows, length]`; 0 where the target is `IGNORED`.
    """
    pieces = zip(by_positions(logits), targets.flatten().split(POSITIONS), strict=True)
    losses = [
        F.cross_entropy(piece.float(), target, ignore_index=IGNORED, reduction="none") for piece, target in pieces
    ]
    return -torch.cat(losses).view_as(targets)


def by_positions(logits: Tensor) -> tuple[Tensor, ...]:
    """Cut logits `[..., vocabulary]` into `[≤ POSITIONS, vocabulary]`.

    Float32 copies of such a piece stay in the cache; a copy of all logits would cost more time and memory
    than the model's own matrix product.
    """
    return logits.flatten(0, -2).split(POSITIONS)


def batches(lengths: Sequence[int], tokens: int = TOKENS_PER_BATCH) -> Iterator[list[int]]:
    """Cut row numbers into batches of like length whose padded size is at most `tokens`, or one row; longest first."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def pad(rows: Sequence[Sequence[int]], value: int, side: str = "right") -> Tensor:
    """Stack rows of ids into one int64 tensor `[rows, longest]`, filled with `value` on one side."""
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)

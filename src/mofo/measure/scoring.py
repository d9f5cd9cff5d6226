"""Log-probabilities of tokens under a model, in batches: the basis of every probe.

Rows are padded on the right. A causal model cannot look ahead, so padding there changes nothing before it, and neither
an attention mask nor position ids are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mofo.data.tokens import IGNORED, Labelled
from mofo.measure import share
from mofo.measure.mean import Mean

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel
    from transformers.utils.generic import ModelOutput

TOKENS_PER_BATCH = 1024
"""Enough to keep two cores or a GPU busy; the logits of a 49k vocabulary take 200 MB at float32."""

POSITIONS = 16
"""Positions whose logits are turned into float32 log-probabilities at once."""


class Loss(TypedDict):
    """Mean loss in nats per token, whose units are the rows, and the number of tokens that it is the mean of."""

    loss: Mean
    tokens: int


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Run a model in eval mode and without gradients, and return each of its modules to the mode it was in.

    What a model keeps of a forward pass in `torch.inference_mode` (gathered shards, tables of positions) cannot be used
    in training afterwards; `torch.no_grad` leaves ordinary tensors.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def held_out_loss(model: PreTrainedModel, examples: Iterable[Labelled]) -> Loss:
    """Return the mean negative log-likelihood of the labelled tokens, each token weighing the same.

    Args:
        model: A causal language model.
        examples: Tokens and labels; the shift by one happens here.

    Raises:
        ValueError: No token is labelled.
    """
    examples = list(examples)
    found: dict[int, float] = {}
    together = list(batches([len(example["input_ids"]) for example in examples]))
    with inference(model):
        for number in share.own(len(together)):
            rows = together[number]
            inputs = pad([examples[row]["input_ids"] for row in rows], 0)
            labels = pad([examples[row]["labels"] for row in rows], IGNORED)
            sums = log_likelihoods(model, inputs, labels).sum(dim=1, dtype=torch.float64).tolist()
            found |= dict(zip(rows, sums, strict=True))
    found = share.merged(found)
    counts = [sum(label != IGNORED for label in example["labels"][1:]) for example in examples]
    tokens = sum(counts)
    if tokens == 0:
        raise ValueError("no labelled token in the examples: there is no loss to measure")
    return {"loss": Mean([-found[row] for row in range(len(examples))], counts), "tokens": tokens}


def log_likelihoods(model: PreTrainedModel, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the log-probability of every labelled token given the tokens before it.

    Args:
        model: A causal language model.
        inputs: Token ids, `[rows, length]`, padded on the right.
        labels: The same ids, `IGNORED` where a token does not count.

    Returns:
        Float32 nats, `[rows, positions]` with the positions at which any row has a label; 0 where this row has none.
    """
    targets = labels[:, 1:]
    positions = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
    if len(positions) == 0:
        return torch.zeros(len(inputs), 0)
    # Nothing after the last needed position is computed, nor are other logits: in a small model the vocabulary is the
    # most expensive layer.
    inputs = inputs[:, : int(positions[-1]) + 1].to(model.device)
    positions = positions.to(model.device)
    logits = model(input_ids=inputs, logits_to_keep=positions, use_cache=False).logits
    return token_log_probabilities(logits, targets.to(model.device)[:, positions])


def token_log_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probability of each target.

    Args:
        logits: `[rows, length, vocabulary]`.
        targets: Token ids or `IGNORED`, `[rows, length]`.

    Returns:
        Float32 nats, `[rows, length]`; 0 where the target is `IGNORED`.
    """
    pieces = zip(by_positions(logits), targets.flatten().split(POSITIONS), strict=True)
    losses = [
        F.cross_entropy(piece.float(), target, ignore_index=IGNORED, reduction="none") for piece, target in pieces
    ]
    return -torch.cat(losses).view_as(targets)


def reusable_cache(output: ModelOutput) -> DynamicCache | None:
    """Return the keys and values that a forward pass cached, if any number of tokens can go on from them.

    That is so where every layer is one of attention. The states of recurrent layers, whatever a model calls them, can
    in general be continued by one token at a time only, and not be selected from: a text is read again there.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    cache = output.get("past_key_values")
    if isinstance(cache, DynamicCache) and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    ):
        return cache
    return None


def by_positions(logits: Tensor) -> tuple[Tensor, ...]:
    """Cut logits `[..., vocabulary]` into pieces `[≤ POSITIONS, vocabulary]`.

    Float32 copies of such a piece stay in the cache; a copy of all logits would cost more time and memory than the
    model's own matrix product.
    """
    pieces: tuple[Tensor, ...] = logits.flatten(0, -2).split(POSITIONS)
    return pieces


def batches(lengths: Sequence[int], tokens: int = TOKENS_PER_BATCH) -> Iterator[list[int]]:
    """Yield batches of row numbers, rows of similar length together, the longest first.

    Args:
        lengths: Length of each row.
        tokens: The padded size that a batch of several rows does not exceed.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def pad(rows: Sequence[Sequence[int]], value: int, side: Literal["left", "right"] = "right") -> Tensor:
    """Stack rows of ids into one int64 tensor `[rows, longest]`, filled with a value on one side."""
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)

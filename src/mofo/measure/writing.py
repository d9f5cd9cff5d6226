"""Text that the base writes: freely, or as answers to prompts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from mofo.data.rows import load_rows
from mofo.data.tokens import encode_rows
from mofo.errors import UserError
from mofo.measure.generation import sample_answers
from mofo.measure.progress import report
from mofo.measure.scoring import inference, reusable_cache
from mofo.models.limits import position_limit

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mofo.data.forms import Row

TEXTS = 16
"""Texts that are written freely."""

TEXT_TOKENS = 128
"""Tokens of each."""

BATCH = 64
"""The most texts that are written at once: what the model keeps of them grows with their number."""

ANSWERS = 16
"""The most prompts that are answered."""

ANSWER_TOKENS = 96
"""Where an answer that does not end is cut off."""

TEMPERATURE = 0.7
"""Of answers, as people sample them."""


def text_start(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that stand before the first one of a text."""
    return tokenizer("")["input_ids"] or [first_token(base, tokenizer)]


def write_texts(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    texts: int = TEXTS,
    tokens: int = TEXT_TOKENS,
    seed: int = 0,
    start: list[int] | None = None,
) -> list[list[int]]:
    """Sample texts from the base at temperature 1, from the start of a text.

    Nothing is cut off the distribution, and an end of text is an ordinary token after which the next one begins, so
    the texts are what the base believes text to be, and all are of one length.

    Args:
        base: The base model.
        tokenizer: Its tokenizer, which knows how a text starts.
        texts: Number of texts.
        tokens: Number of tokens to sample for each.
        seed: Seed of the sampling; the global random state is neither read nor changed.
        start: What all texts begin with; by default what the tokenizer puts before a text.

    Returns:
        Token ids of each text: its start and then `tokens` sampled ids, or as many as the base has positions for.
    """
    start = text_start(base, tokenizer) if start is None else start
    tokens = min(tokens, position_limit(base.config) - len(start) + 1)  # the last token is not read
    generator = torch.Generator().manual_seed(seed)
    batches: list[Tensor] = []
    with inference(base):
        for first in range(0, texts, BATCH):
            starts = torch.tensor(start).expand(min(BATCH, texts - first), -1)
            for ids in _continued(base, starts, tokens, generator):
                written = ids[:, len(start) :].numel()
                report("tokens that the base writes", first * tokens + written, texts * tokens)
            batches.append(ids)
    found: list[list[int]] = torch.cat(batches).tolist()
    return found


def _continued(base: PreTrainedModel, starts: Tensor, tokens: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Sample tokens after starts, (texts, start); yield both after each token, (texts, start + 1) and so on."""
    written = starts
    cache, unread = None, written
    for _ in range(tokens):
        # `past_key_values=None` would be an unknown argument to models that have another kind of cache.
        past: dict[str, Any] = {} if cache is None else {"past_key_values": cache}
        output = base(input_ids=unread.to(base.device), use_cache=True, logits_to_keep=1, **past)
        probabilities = output.logits[:, -1].float().softmax(dim=-1).cpu()
        drawn = torch.multinomial(probabilities, 1, generator=generator)
        written = torch.cat([written, drawn], dim=1)
        cache = reusable_cache(output)
        unread = written if cache is None else drawn
        yield written


def read_prompts(file: str) -> list[Row]:
    """Return the rows of a file of prompts; their own answers are not used.

    Raises:
        UserError: The file cannot be read, or its rows have no prompts.
    """
    rows = load_rows(file)
    if "text" in rows[0]:
        raise UserError(f"{file} holds plain text, and the probe `divergence` needs prompts: give rows with questions.")
    return rows


def answer_prompts(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[Row], *, seed: int = 0
) -> tuple[list[list[int]], list[int]]:
    """Have the base answer prompts, each until it ends its answer.

    Args:
        base: The base model.
        tokenizer: Its tokenizer.
        rows: Where the prompts come from; `ANSWERS` of those that leave room for an answer are drawn.
        seed: Seed of the draw and of the sampling.

    Returns:
        Token ids of each prompt with its answer, and the lengths of the prompts.

    Raises:
        UserError: No prompt leaves the base room for an answer.
    """
    room = position_limit(base.config) - ANSWER_TOKENS
    chosen = random.Random(seed).sample(rows, min(len(rows), 4 * ANSWERS))
    examples = encode_rows(chosen, tokenizer, room + ANSWER_TOKENS, place=lambda row: "A row of the prompts")
    prompts = [example["prompt_ids"] for example in examples if 0 < len(example["prompt_ids"]) <= room][:ANSWERS]
    if not prompts:
        raise UserError(
            f"No prompt of the probe `divergence` leaves room for an answer of {ANSWER_TOKENS} tokens: the model has "
            f"{room + ANSWER_TOKENS} positions. Give shorter prompts."
        )
    answers = sample_answers(base, tokenizer, prompts, max_new_tokens=ANSWER_TOKENS, temperature=TEMPERATURE, seed=seed)
    texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    return texts, [len(prompt) for prompt in prompts]


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

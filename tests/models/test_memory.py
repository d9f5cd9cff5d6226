"""Memory: what was held, and what a training pass is said to hold against what torch allocates in one."""

import copy

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mofo.models.memory import pass_memory, peak_memory
from reference import architectures, tiny_llama

ROWS, LENGTH = 2, 96


def test_peak_memory_covers_what_was_held():
    before = peak_memory(torch.device("cpu"))
    block = torch.ones(1 << 26)
    assert peak_memory(torch.device("cpu")) >= max(before, block.nbytes)


def llama(**changes):
    return tiny_llama.make_model(tiny_llama.make_tokenizer(), **changes)


def counted(model, **changes):
    settings = {"dtype": torch.float32, "bf16": False, "checkpointing": False, "batches": 1}
    return pass_memory(copy.deepcopy(model).to("meta"), rows=ROWS, length=LENGTH, **(settings | changes))


def allocated(model, *, bf16=False, checkpointing=False, batches=1):
    """The most bytes that torch's allocator had given out at once in the batches of a step."""
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    ids = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) % 200
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0  # as in a batch of rows of several lengths
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": ids, "use_cache": False}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        for _ in range(batches):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = model(**inputs).loss
            loss.backward()
            del loss
    changes = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({}, {}),
        ({"vocab_size": 20_000}, {}),
        ({"vocab_size": 20_000}, {"bf16": True}),
        ({"hidden_size": 64, "num_hidden_layers": 6}, {"bf16": True}),
        ({"hidden_size": 64, "num_hidden_layers": 6}, {"checkpointing": True}),
        ({"vocab_size": 20_000, "hidden_size": 64, "tie_word_embeddings": False}, {"batches": 2}),
    ],
)
def test_pass_memory_is_what_torch_allocates(changes, settings):
    model = llama(**changes)
    assert counted(model, **settings) == pytest.approx(allocated(model, **settings), rel=0.1)


@pytest.mark.parametrize(
    "name",
    ["gpt2", "qwen3_moe"]
    + [
        pytest.param(name, marks=pytest.mark.full)
        for name in architectures.ARCHITECTURES
        if name not in ("llama", "gpt2", "qwen3_moe")
    ],
)
def test_pass_memory_of_other_architectures(name):
    model = architectures.make_model(name)
    assert counted(model) == pytest.approx(allocated(model), rel=0.25)


def test_logits_are_held_three_times_in_float32():
    """The loss keeps their log-probabilities, and their gradient and that of the loss are there at once."""
    small, large = (counted(llama(vocab_size=size)) for size in (20_000, 40_000))
    assert large - small == 3 * ROWS * LENGTH * 20_000 * 4


def test_gradients_of_an_earlier_batch_and_weights_of_16_bits_count():
    model = llama(vocab_size=20_000)
    gradients = sum(parameter.numel() for parameter in model.parameters()) * 4
    assert counted(model, batches=3) == counted(model, batches=2) >= counted(model) + gradients
    assert counted(model, dtype=torch.bfloat16, bf16=True) < counted(model, bf16=True)


class Asking(nn.Module):
    """A model whose code looks at a value that it has computed."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(8, 2)

    def forward(self, input_ids, **_):
        return self.embed(input_ids).sum() if self.embed.weight.sum().item() > 0 else None


def test_pass_memory_of_a_model_that_looks_at_values_is_not_known():
    assert counted(Asking()) is None

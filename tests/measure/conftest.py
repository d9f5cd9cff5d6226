"""Models to measure: a random Llama of two layers, and the real one where the tests may have it."""

import copy
from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mofo.measure import write_texts
from reference import tiny_llama
from reference.workbench import sums, tiny_data, tiny_model  # noqa: F401

# Measured models are larger than trained ones and far from uniform predictions.
SETTINGS = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_llama.make_tokenizer()


@pytest.fixture(scope="session")
def base(tokenizer):
    """The model that is to be measured; never changed by a test."""
    return tiny_llama.make_model(tokenizer, **SETTINGS).eval()


@pytest.fixture(scope="session")
def untied_base(tokenizer):
    """A model whose output layer is its own."""
    return tiny_llama.make_model(tokenizer, **SETTINGS, tie_word_embeddings=False).eval()


@pytest.fixture
def tuned(base):
    """The base with every parameter moved a little."""
    model = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="session")
def learned_model(tiny_model, sums):
    """The tiny model after a few steps on the sums; do not change it."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    rows = tokenizer([f"{row['question']} {row['answer']}" for row in sums], return_tensors="pt", padding=True)
    labels = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(8):
        model(**rows, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def quick():
    """Measure in float32 on every processor, and the divergence on few short texts."""
    with pytest.MonkeyPatch.context() as patched:
        for module in ("pair", "path"):
            patched.setattr(f"mofo.measure.{module}.choose_precision", lambda _: "float32")
        patched.setattr("mofo.measure.divergence.write_texts", partial(write_texts, texts=6, tokens=24))
        yield


@pytest.fixture(scope="session")
def smollm2():
    """The real model and its tokenizer."""
    from mofo.models.load import load_model

    return load_model("smollm2-135m")

"""A tiny model, and what hooks may know of a run."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mofo.methods.part import Setup
from mofo.models.weights import copy_of_weights
from reference.workbench import sums, tiny_data, tiny_model  # noqa: F401

ROWS = [[1, 7, 9, 11, 5], [1, 8, 6, 4, 2], [1, 30, 20, 10, 3], [1, 40, 41, 42, 43]]


@pytest.fixture
def model(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model)


@pytest.fixture(scope="session")
def rows():
    """Eight rows, in training order; the first two tokens of each are the prompt."""
    return [
        {"input_ids": row, "labels": [-100, -100, *row[2:]], "prompt_ids": row[:2], "answer": ""} for row in ROWS + ROWS
    ]


@pytest.fixture
def setup(tiny_model, rows, tmp_path):
    """A run of four steps of two rows."""
    return Setup(
        base=copy_of_weights(AutoModelForCausalLM.from_pretrained(tiny_model)),
        tokenizer=AutoTokenizer.from_pretrained(tiny_model),
        device=torch.device("cpu"),
        seed=0,
        steps=4,
        batch=2,
        rows=rows,
        folder=tmp_path / "run",
        shared=tmp_path / "shared",
    )


@pytest.fixture
def again(setup):
    """The same run in another process, as after a kill."""
    return replace(setup, scratch={})


def move(model, size=0.1, seed=1):
    """Move every parameter a little, and give each a gradient."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    return model

from pathlib import Path

import pytest
import torch

from mofo.compare import estimate as estimating
from mofo.compare.estimate import estimate, estimate_table
from mofo.compare.folder import OutputFolder
from mofo.compare.prepare import prepare
from mofo.compare.recipe import make_recipe

VOCABULARY = 270
PARAMETERS = VOCABULARY * 32 + 2 * (3072 + 6144 + 64) + 32
"""Those of the tiny model: tokens, and for two layers attention, feed-forward and norms."""


@pytest.fixture
def values(tiny_model, tiny_data):
    return {"model": tiny_model, "data": tiny_data, "held_out_rows": 4, "steps": 5, "batch_size": 2, "seeds": [0, 1]}


@pytest.mark.parametrize(
    ("change", "width", "disk"),
    [
        ({}, 4, 2 * 12 + 3 * 4),
        ({"weights": "bfloat16"}, 2, 2 * 10 + 3 * 2),
        ({"save": "all"}, 4, 2 * 12 + 4 * 4),
        ({"save": "points"}, 4, 2 * 12 + 4 * 4 * 4),
        ({"save": "none"}, 4, 2 * 12),
    ],
)
def test_estimate_counts_runs_tokens_and_bytes(values, change, width, disk):  # 8 bytes of state: MoFO's
    found = estimate(make_recipe(values | change), "float32", [5], [[10, 20]])
    assert (found.runs, found.steps, found.tokens) == (4, 5, 15 * 2 * 5)
    assert found.parameters == PARAMETERS
    assert found.states == (width + 8) * PARAMETERS
    assert found.base == width * PARAMETERS
    assert found.disk == disk * PARAMETERS


@pytest.mark.parametrize(
    ("methods", "states"),
    [(["sgd", "lion"], 4 + 4), (["lion", "adamw"], 4 + 8), ([{"mofo": {"state_dtype": "int8"}}], 4 + 2)],
)
def test_estimate_counts_the_state_of_the_optimizer_with_the_most(values, methods, states):
    found = estimate(make_recipe(values | {"methods": methods, "save": "none"}), "float32", [5], [[10]])
    assert (found.states, found.disk) == (states * PARAMETERS, 2 * states * PARAMETERS)


def test_estimate_counts_the_largest_batch_and_what_probes_keep(values):
    recipe = make_recipe(values)
    found, of_shorter_rows = (estimate(recipe, "float32", [5, 5], [[10], [longest]]) for longest in (20, 10))
    assert found.batch == (2, 20)
    logits = 2 * 20 * VOCABULARY * 4
    assert found.activations > 3 * logits
    assert found.activations == pytest.approx(2 * of_shorter_rows.activations, rel=0.1)
    assert found.probes == 16 * 128 * VOCABULARY * 4
    assert estimate(recipe, "bfloat16", [5], [[10]]).probes == 16 * 128 * VOCABULARY * 2
    assert estimate(make_recipe(values | {"probes": ["text"]}), "float32", [5], [[10]]).probes == 0


def test_estimate_table_shows_all(values):
    table = estimate_table(estimate(make_recipe(values), "float32", [5], [[10, 20]]), Path("out"))
    labels, texts = (list(column.cells) for column in table.columns)
    assert labels == ["runs", "training", "model", "memory", "disk"]
    assert texts[:2] == ["4, of 5 steps each", "150 tokens a run, 600 in all"]
    assert texts[3].startswith("about 70")  # megabytes, almost all of the libraries
    assert "weights and optimizer state 0.3 MB" in texts[3]
    assert "gradients, activations and logits of 2 × 20 tokens" in texts[3]


def test_estimate_table_says_what_could_not_be_counted(values, monkeypatch):
    monkeypatch.setattr(estimating, "pass_memory", lambda *_, **__: None)
    monkeypatch.setattr(estimating, "compute_device", lambda: torch.device("cuda"))
    table = estimate_table(estimate(make_recipe(values), "float32", [5], [[10, 20]]), Path("out"))
    labels, texts = (list(column.cells) for column in table.columns)
    assert labels[3:5] == ["GPU memory", "memory"]
    assert "gradients, activations and logits of 2 × 20 tokens unknown" in texts[3]
    assert "the base's weights 0.1 MB" in texts[4]


def test_dry_run_checks_all_and_writes_nothing(values, tmp_path):
    output = tmp_path / "missing" / "out"
    found = prepare(make_recipe(values), OutputFolder(output), overwrite=False, dry_run=True)
    assert found.runs == 4
    assert list(tmp_path.iterdir()) == []

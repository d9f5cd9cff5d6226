from pathlib import Path

import pytest

from mofo.compare.estimate import estimate, estimate_table
from mofo.compare.folder import OutputFolder
from mofo.compare.prepare import prepare
from mofo.compare.recipe import make_recipe

PARAMETERS = 270 * 32 + 2 * (3072 + 6144 + 64) + 32
"""Those of the tiny model: tokens, and for two layers attention, feed-forward and norms."""


@pytest.fixture
def values(tiny_model, tiny_data):
    return {"model": tiny_model, "data": tiny_data, "held_out_rows": 4, "steps": 5, "batch_size": 2, "seeds": [0, 1]}


@pytest.mark.parametrize(
    ("change", "memory", "disk"),
    [
        ({}, 16, 2 * 12 + 3 * 4),
        ({"weights": "bfloat16"}, 12, 2 * 10 + 3 * 2),
        ({"save": "all"}, 16, 2 * 12 + 4 * 4),
        ({"save": "points"}, 16, 2 * 12 + 4 * 4 * 4),
        ({"save": "none"}, 16, 2 * 12),
    ],
)
def test_estimate_counts_runs_tokens_and_bytes(values, change, memory, disk):
    found = estimate(make_recipe(values | change), [5], [[10, 20]])
    assert (found.runs, found.steps, found.tokens) == (4, 5, 15 * 2 * 5)
    assert found.memory == memory * found.parameters
    assert found.disk == disk * found.parameters
    assert found.parameters == PARAMETERS


def test_estimate_table_shows_all(values):
    table = estimate_table(estimate(make_recipe(values), [5], [[10, 20]]), Path("out"))
    labels, texts = (list(column.cells) for column in table.columns)
    assert labels == ["runs", "training", "model", "memory", "disk"]
    assert texts[:2] == ["4, of 5 steps each", "150 tokens a run, 600 in all"]


def test_dry_run_checks_all_and_writes_nothing(values, tmp_path):
    output = tmp_path / "missing" / "out"
    found = prepare(make_recipe(values), OutputFolder(output), overwrite=False, dry_run=True)
    assert found.runs == 4
    assert list(tmp_path.iterdir()) == []

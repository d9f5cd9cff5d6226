"""A new optimizer and a new extra are found everywhere without another change."""

import importlib
import io
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from mofo.compare.jobs import compare
from mofo.compare.recipe import make_recipe
from mofo.methods import parts
from mofo.report import Comparison, load_results, summary_table


@pytest.fixture
def _added_parts(monkeypatch, tmp_path):
    """The parts of `reference/added_parts.py`, in this process and in those of the jobs."""
    monkeypatch.setattr(parts, "PARTS", parts.PARTS)  # as it was, after the test
    sys.modules.pop("reference.added_parts", None)
    importlib.import_module("reference.added_parts")
    (tmp_path / "sitecustomize.py").write_text("import reference.added_parts\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])]))


@pytest.mark.usefixtures("_added_parts")
def test_compare_knows_an_optimizer_and_extras_that_were_added(tiny_model, tiny_data, tmp_path):
    recipe = make_recipe(
        {
            "model": tiny_model,
            "data": tiny_data,
            "held_out_rows": 6,
            "methods": ["adamw", {"heavy-ball": {"momentum": [0.0, 0.9]}, "pull": {}}, "heavy-ball+halfway"],
            "settings": {"learning_rate": 1e-2, "pull.strength": 0.1},
            "steps": 4,
            "points": 2,
            "batch_size": 2,
            "probes": ["divergence"],
            "precision": "float32",
        }
    )
    names = [run.name for run in recipe.runs()]
    assert names == [
        "adamw-lr0.01-s0",
        "heavy-ball+pull-lr0.01-m0-pull.s0.1-s0",
        "heavy-ball+pull-lr0.01-m0.9-pull.s0.1-s0",
        "heavy-ball+halfway-lr0.01-m0-s0",
    ]
    compare(recipe, tmp_path / "out", jobs=2)

    results = load_results(tmp_path / "out")
    assert results.complete
    assert results.reference == "adamw"
    assert {name: method.label for name, method in results.methods.items()} == {
        "adamw": "AdamW",
        "heavy-ball+pull": "Heavy ball + Pull",
        "heavy-ball+halfway": "Heavy ball + Halfway",
    }
    assert [run.name for run in results.runs] == [*names, "heavy-ball+halfway-lr0.01-m0-s0-halfway.share0.5"]
    assert results.settings["pull.strength"].label == "Pull strength"
    assert results.settings["halfway.share"].description == "share of the way that is kept"
    whole, half = results.runs[-2:]
    assert half.distance.l2 == pytest.approx(whole.distance.l2 / 2, rel=1e-3)

    console = Console(file=io.StringIO(), width=200)
    console.print(summary_table(Comparison(results), 200))
    page = (tmp_path / "out" / "report.html").read_text()
    for label in ("Heavy ball + Pull", "Heavy ball + Halfway"):
        assert label in console.file.getvalue()
        assert label in page
    assert list((tmp_path / "out" / "plots").glob("*.png"))

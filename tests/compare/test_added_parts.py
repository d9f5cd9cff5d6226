"""An optimizer and extras that another package offers are known everywhere."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from mofo.compare.jobs import compare
from mofo.compare.recipe import make_recipe
from mofo.errors import UserError
from mofo.methods import parts
from mofo.methods.offered import offered_parts
from mofo.report import Comparison, load_results, summary_table


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Install a package that offers classes as parts, for this process and for those that it starts."""

    def installed(*classes):
        folder = tmp_path / "packages"
        info = folder / "theirs-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
        lines = ["[mofo.parts]", *(f"part-{i} = {where}" for i, where in enumerate(classes))]
        (info / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(Path(__file__).parents[1])]))
        monkeypatch.syspath_prepend(str(folder))

    return installed


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "reference.missing:Part",
            "reference.missing:Part, which theirs offers as a part, cannot be loaded (ModuleNotFoundError: No module "
            "named 'reference.missing'): mend the package, or uninstall it.",
        ),
        (
            "reference.added_parts:setting",
            "reference.added_parts:setting, which theirs offers as a part, is not a part of",
        ),
        ("mofo.methods.part:Part", "expected a class made from Part or OptimizerPart of mofo.methods.part, with name,"),
        ("mofo.methods.mofo:MoFO", "is called mofo, as another part is: give it another name."),
    ],
)
def test_parts_that_cannot_be_used_are_refused_in_a_sentence(install, where, message):
    install(where)
    with pytest.raises(UserError) as error:
        offered_parts(parts.OWN)
    assert message in str(error.value)


def test_command_with_a_broken_package_ends_in_a_sentence(install):
    install("reference.missing:Part")
    found = subprocess.run([sys.executable, "-m", "mofo.cli", "methods"], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr.startswith("mofo methods: ") or found.stderr.startswith("mofo: ")
    assert "mend the package, or uninstall it." in found.stderr
    assert "Traceback" not in found.stderr


def test_parts_are_listed_optimizers_first(install):
    install("reference.added_parts:Pull", "reference.added_parts:HeavyBall")
    code = "from mofo.methods.parts import PARTS; print(*(part.name for part in PARTS))"
    command = [sys.executable, "-c", code]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert names.index("heavy-ball") == names.index("self-distill") - 1
    assert names[-1] == "pull"


def test_compare_knows_an_optimizer_and_extras_that_were_added(install, monkeypatch, tiny_model, tiny_data, tmp_path):
    install(*(f"reference.added_parts:{name}" for name in ("HeavyBall", "Pull", "Halfway")))
    monkeypatch.setattr(parts, "PARTS", (*parts.OWN, *offered_parts(parts.OWN)))
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

"""The recipes of the paper's figures and tables: checked with a tiny model and rows of their form, without training."""

import json
import re
import runpy
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from mofo.compare.estimate import estimate
from mofo.compare.folder import OutputFolder
from mofo.compare.launch import read_launch
from mofo.compare.prepare import prepare
from mofo.compare.recipe import make_recipe, override, read_recipe
from mofo.methods import parts
from mofo.methods.part import Part
from mofo.results import load_results

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
RECIPES = sorted(file for file in EXPERIMENTS.rglob("*.yaml") if "methods" in yaml.safe_load(file.read_text()))


@pytest.fixture
def evidence(tmp_path, monkeypatch):
    """Writes rows of the form of `experiments/evidence/prepare.py`, and makes the folder above the current one."""
    folder = tmp_path / "runs" / "evidence-data"
    folder.mkdir(parents=True)
    for name, count in (("math-train", 40), ("math-held-out", 10), ("math-other-prompts", 4)):
        rows = [{"question": f"{name}: what is {n} plus 1?", "answer": f"It is {n + 1}."} for n in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = [{"question": "1?", "choices": ["one", "two"], "answer": 0, "subject": "ARC-Easy"}]
    (folder / "arc_easy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (folder / "wikitext2.txt").write_text("A text of some words. " * 20)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dry_run(file, tiny_model, tmp_path, **changes):
    values = override(read_recipe(EXPERIMENTS / file), {"model": tiny_model, "precision": "auto", **changes})
    recipe = make_recipe(values)
    return recipe, prepare(recipe, OutputFolder(tmp_path / "out"), overwrite=False, dry_run=True)


@pytest.fixture
def candidates(monkeypatch):
    """Makes the parts of experiments/evidence/candidates known, as if that package were installed."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "evidence" / "candidates"))
    defined = [value for value in vars(import_module("candidates")).values() if isinstance(value, type)]
    added = [part for part in defined if issubclass(part, Part) and hasattr(part, "name") and part not in parts.OWN]
    monkeypatch.setattr(parts, "PARTS", (*parts.OWN, *added))


@pytest.mark.usefixtures("candidates")
@pytest.mark.parametrize("file", RECIPES, ids=lambda file: str(file.relative_to(EXPERIMENTS)))
def test_every_recipe_can_be_read_also_those_beside_results(file):
    assert make_recipe(read_recipe(file)).runs()


@pytest.mark.parametrize(
    ("file", "runs", "steps"),
    [
        ("landscape/recipe.yaml", 5, 32),
        ("fraction/recipe.yaml", 34, 32),
        ("score/recipe.yaml", 4 * 3 * 3, 32),
        ("blocks/recipe.yaml", 5 * 3 * 3, 32),
        ("regime/recipe.yaml", 3 * 5 * 3, 600),
    ],
)
def test_recipe_reads_what_prepare_writes_and_makes_its_plan(evidence, tiny_model, file, runs, steps):
    recipe, found = dry_run(file, tiny_model, evidence)
    assert (found.runs, found.steps) == (runs, steps)
    assert not (evidence / "out").exists()
    assert recipe.rows_per_step == (128 if steps == 600 else 5)


@pytest.mark.parametrize("file", ["harness/metamath.yaml", "llama/pmc.yaml"])
def test_recipes_of_the_papers_size_have_its_settings(evidence, tiny_model, file, tmp_path):
    given = read_recipe(EXPERIMENTS / file)
    rows = [dict.fromkeys(given["columns"].values(), f"row {n}") for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"data": str(tmp_path / "rows.jsonl"), "held_out_rows": 2, "end_probes": ["choice"], "learned": None}
    recipe, found = dry_run(file, tiny_model, tmp_path, **changes)
    assert recipe.rows_per_step == 128
    assert (recipe.epochs, recipe.schedule, recipe.settings["weight_decay"]) == (2, "cosine", 0)
    assert len({run.method_name for run in recipe.runs()}) == 7
    assert found.runs == (21 if "metamath" in file else 24)


@pytest.mark.full
@pytest.mark.parametrize("file", ["harness/metamath.yaml", "llama/pmc.yaml"])
def test_recipes_of_the_papers_size_take_the_memory_that_is_said(file, monkeypatch):
    def llama(*_, **__):
        with torch.device("meta"):
            return LlamaForCausalLM(LlamaConfig(attn_implementation="sdpa"))  # its defaults are Llama-2-7B

    monkeypatch.setattr("mofo.compare.estimate.empty_model", llama)
    monkeypatch.setattr("mofo.compare.estimate.compute_device", lambda: torch.device("cuda"))
    found = estimate(make_recipe(read_recipe(EXPERIMENTS / file)), "bfloat16", [617], [[250, 1024]])
    assert found.parameters == 6_738_415_616
    said = (EXPERIMENTS / "harness" / "metamath.yaml").read_text()
    for claim, size in (
        ("about 86 GB of GPU memory", found.states + found.activations),
        ("weights 13.5 GB", 2 * found.parameters),
        ("moments 53.9 GB", found.states - 2 * found.parameters),
        ("tokens 19.0 GB", found.activations),
    ):
        assert claim in " ".join(said.replace("#", " ").split())
        number = re.search(r"([\d.]+) GB", claim)[1]
        assert f"{size / 1e9:.{len(number.partition('.')[2])}f}" == number


@pytest.mark.parametrize("file", ["harness/metamath.yaml", "llama/pmc.yaml"])
def test_methods_of_the_papers_size_can_be_spread_over_eight_gpus(file, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    changes = {"methods": ["adamw", "mofo", "self-distill"], "weights": "float32"}
    launch = EXPERIMENTS.parent / "examples" / "accelerate" / "fsdp2.yaml"
    found = read_launch(launch, make_recipe(override(read_recipe(EXPERIMENTS / file), changes)), 1)
    assert (found.processes, found.sharded) == (8, True)


def test_landscape_script_maps_every_other_method_against_the_first(evidence, monkeypatch):
    experiment = runpy.run_path(str(EXPERIMENTS / "landscape" / "run.py"))
    called = []
    monkeypatch.setattr("mofo.cli.main", lambda words: called.append(words) or 0)
    assert experiment["main"]() == 0
    compared, *maps = called
    assert compared[0] == "compare"
    assert [Path(words[-1]).name for words in maps] == ["lion", "mofo", "adamw+hft", "adamw+lora"]
    for words in maps:
        assert words[2] == "runs/landscape/runs/adamw-lr0.0001-s0"
        assert len({word for word in words if word.startswith("runs/landscape/runs/")}) == 5


def test_front_of_the_methods_figure_has_what_no_other_beats():
    front = runpy.run_path(str(EXPERIMENTS / "methods" / "figures.py"))["front"]
    assert front([(1, 3), (2, 2), (3, 1), (3, 3), (2, 2), (1, 4)]) == [True, True, True, False, True, False]


def test_methods_figures_are_drawn_from_committed_results(tmp_path):
    experiment = runpy.run_path(str(EXPERIMENTS / "methods" / "figures.py"))
    results = load_results(EXPERIMENTS / "gsm8k" / "results")
    (tmp_path / "results.json").write_text(results.model_dump_json(by_alias=True))
    experiment["draw"].__globals__["DRAWS"] = 20
    experiment["draw"](tmp_path)
    found = json.loads((tmp_path / "figures.json").read_text())
    assert set(found["distance"]) == {"text loss", "choice accuracy", "wikitext2 loss", "divergence"}
    for rho in found["distance"].values():
        assert rho["low"] <= rho["high"]
        assert rho["runs"] == len(results.runs)
    assert any(end["on front"] for end in found["front"]["divergence"])
    for name in ("distance", "front"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_ablation_tells_variants_apart_at_one_rate_and_at_equal_learning(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "evidence"))
    shutil.copy(EXPERIMENTS / "gsm8k" / "results" / "results.json", tmp_path)
    monkeypatch.setattr("sys.argv", ["ablation.py", str(tmp_path), "--over", "fraction"])
    runpy.run_path(str(EXPERIMENTS / "evidence" / "ablation.py"), run_name="__main__")
    one_rate, equal_learning = capsys.readouterr().out.split("At held-out loss 0.8916")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in one_rate.splitlines() if line.startswith("|")]
    assert rows[0] == ["", "at 2e-4", "at 3e-4"]  # MoFO at 0.05 has no others
    assert rows[2] == ["MoFO, 0.05", "0.8887 · 0.0796 · 3.14", "0.8802 · 0.127 · 4.48"]
    assert [row[0] for row in rows[2:]] == ["MoFO, 0.05", "MoFO, 0.15", "AdamW"]
    assert "MoFO, 0.05" not in equal_learning  # it has one seed
    assert "| MoFO, 0.15 | 2e-4 | 0.882 ± 0.008 |" in equal_learning
    assert (tmp_path / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_filter_figure_counts_what_moved(evidence, tiny_model, tmp_path):
    experiment = runpy.run_path(str(EXPERIMENTS / "filter" / "run.py"))
    data = "runs/evidence-data/math-train.jsonl"
    results = experiment["run"](tiny_model, data, "model.layers.1.mlp.down_proj.weight", 3)
    shares = [step["moved so far"] for step in results["steps"]]
    assert shares == sorted(shares)
    assert shares[0] == results["steps"][0]["moved"] == int(0.15 * 32 * 64) / (32 * 64)
    assert results["steps"][0]["moved in the step before too"] == 0
    assert shares[-1] <= 3 * shares[0]
    experiment["draw"](results, tmp_path / "filter.png")
    assert (tmp_path / "filter.png").read_bytes().startswith(b"\x89PNG")

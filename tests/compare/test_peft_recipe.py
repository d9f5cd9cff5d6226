"""`experiments/peft`: peft's protocol on a few rows and a tiny model."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mofo.compare.folder import OutputFolder
from mofo.compare.prepare import prepare
from mofo.compare.recipe import make_recipe, override, read_recipe
from mofo.files import read_jsonl

FOLDER = Path(__file__).parents[2] / "experiments" / "peft"


@pytest.fixture
def peft(tmp_path, monkeypatch):
    """The data of the experiment, made of a few rows; returns the folder above."""
    metamath = [{"query": f"{n} plus 1", "response": f"So\nThe answer is: {n + 1}"} for n in range(6)]
    gsm8k = [{"question": f"{n} plus 2", "answer": f"So\n#### {n + 2}"} for n in range(4)]
    sources = {
        "metamath": [*metamath, {"query": "long", "response": "x" * 1300}],
        "gsm8k": gsm8k,
        "gsm8k-test": gsm8k[:2],
        "wiki": [{"text": "Rome is a city."}],
    }
    words = ["prepare.py", str(tmp_path / "runs" / "peft-data")]
    for name, rows in sources.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
        words += [f"--{name}", str(tmp_path / f"{name}.json")]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(FOLDER / "prepare.py"), run_name="__main__")
    return tmp_path


@pytest.fixture
def evaluate(monkeypatch):
    """The functions of evaluate.py."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield runpy.run_path(str(FOLDER / "evaluate.py"))
    sys.modules.pop("prepare", None)


def test_recipe_reads_what_prepare_writes(peft, tiny_model):
    rows = read_jsonl(peft / "runs" / "peft-data" / "train.jsonl")
    assert len(rows) == 6  # without the one that is too long
    assert rows[0] == {"text": "Question: 0 plus 1 Think step by step.\nAnswer:So\nThe answer is: 1"}
    values = read_recipe(FOLDER / "recipe.yaml")
    recipe = make_recipe(override(values, {"model": tiny_model, "held_out_rows": 2}))
    found = prepare(recipe, OutputFolder(peft / "out"), overwrite=False, dry_run=True)
    assert [run.method_name for run in recipe.runs()] == ["adamw", "mofo", "mofo", "adamw+self-distill", "adamw+lora"]
    assert (found.runs, found.steps) == (5, 5000)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 3.\nThe answer is: 1,000.", 1000),
        ("The answer is 20/35", 4 / 7),
        ("#### 50%", 50),
        ("The answer is: 5\nQuestion: 6", 5),
        ("The answer is: blue!", "blue"),
        ("it is 5", None),
    ],
)
def test_answers_are_read_as_there(evaluate, text, answer):
    assert evaluate["value"](evaluate["final_answer"](text)) == answer


def test_loss_is_the_mean_over_all_tokens(evaluate, tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = [{"text": "Rome is a city."}, {"text": "It rains in the mountains all day."}]
    losses = []
    for row in rows:
        ids = torch.tensor([tokenizer(row["text"])["input_ids"]])
        losses += torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none").tolist()
    assert evaluate["wiki_loss"](model, tokenizer, rows) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert evaluate["accuracy"](model, tokenizer, [{"question": "1 plus 1", "answer": "#### 2"}], 1) == 0


@pytest.mark.full
def test_models_of_a_comparison_are_judged(peft, evaluate, tiny_model, monkeypatch):
    from mofo.cli import main

    words = ["--model", tiny_model, "--steps", "2", "--held-out-rows", "2", "--points", "1", "--probes", "text"]
    recipe = read_recipe(FOLDER / "recipe.yaml")
    recipe["methods"] = recipe["methods"][1:2]
    (peft / "recipe.yaml").write_text(json.dumps(recipe))
    assert main(["compare", "--recipe", "recipe.yaml", "--output", "runs/peft", "--weights", "float32", *words]) == 0
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "runs/peft", "runs/peft-data", "--rows", "1"])
    evaluate["main"]()
    files = sorted(path.name for path in (peft / "runs" / "peft" / "peft").iterdir())
    assert len(files) == 2
    found = json.loads((peft / "runs" / "peft" / "peft" / files[0]).read_text())
    assert {"step", "test accuracy", "forgetting"} == found["train_info"]["metrics"][0].keys()

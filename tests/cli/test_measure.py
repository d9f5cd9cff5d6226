"""`mofo measure`."""

import hashlib
import json
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from mofo import cli
from mofo.measure.probe import Options
from reference.folders import moved, saved


def test_model_measured_against_itself_has_not_changed(capsys, tiny_model):
    argv = ["measure", "--base", tiny_model, "--tuned", tiny_model, "--probes", "text,divergence"]
    assert cli.main([*argv, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["base"]["forgotten"] == results["tuned"]["forgotten"]
    assert results["tuned"]["forgotten"]["divergence"] == {"kl": 0.0}
    assert results["distance"]["l2"] == 0
    assert cli.main(argv) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("The tuned model shows no change beyond noise on text loss, divergence.")
    assert "entries moved" in printed
    assert "positive is worse" in printed


def test_arguments_are_passed_on(monkeypatch):
    seen = []

    def measure_pair(*arguments, **options):
        seen.append((arguments, options))
        raise KeyboardInterrupt

    monkeypatch.setattr("mofo.measure.pair.measure_pair", measure_pair)
    argv = "measure --base b --tuned t --data d.jsonl --rows 7 --probes text,choice:q.jsonl --trust_remote_code"
    argv += " --max-length 64 --turns last --columns question=Q,answer=A"
    argv += " --harness-data rows --allow-code-execution --save-answers read"
    assert cli.main(argv.split()) == 130
    expected = {"data": "d.jsonl", "rows": 7, "probes": ["text", "choice:q.jsonl"], "trust_remote_code": True}
    expected |= {"max_length": 64, "turns": "last", "columns": {"question": "Q", "answer": "A"}}
    expected |= {"options": Options(Path("rows"), True), "answers": Path("read"), "bounds": []}
    assert seen == [(("b", "t"), expected)]


def test_interrupted_measuring_promises_nothing(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mofo.measure.pair.measure_pair", interrupt)
    assert cli.main(["measure", "--base", "b", "--tuned", "t"]) == 130
    assert capsys.readouterr().err == "mofo measure: interrupted\n"


def test_adapter_names_its_base_and_other_vocabularies_are_said(capsys, tiny_model, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    assert cli.main(["measure", "--tuned", str(tmp_path), "--probes", "text", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert (results["distance"]["moved"], results["notes"]) == (0, []), "B of a new adapter is 0"

    assert cli.main(["measure", "--tuned", tiny_model]) == 2
    assert "give its --base" in capsys.readouterr().err

    larger = AutoModelForCausalLM.from_pretrained(tiny_model)
    larger.resize_token_embeddings(272)
    larger.save_pretrained(tmp_path / "larger")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "larger")
    assert cli.main(["measure", "--base", tiny_model, "--tuned", str(tmp_path / "larger"), "--probes", "text"]) == 0
    assert "measured on the 270 that both have" in capsys.readouterr().out


def test_regression_that_is_named_ends_with_exit_code_3(capsys, tiny_model, tmp_path):
    worse = saved(moved(tiny_model, by=0.3), tmp_path / "worse", tiny_model)
    argv = ["measure", "--base", tiny_model, "--probes", "divergence,text", "--output"]
    file = str(tmp_path / "numbers.csv")
    assert cli.main([*argv, file, "--tuned", worse, "--fail-on", "divergence"]) == 3
    printed = capsys.readouterr()
    assert printed.out.endswith(f"Written: {file}\n")
    assert Path(file).read_text().startswith("metric,probe,")
    assert printed.err == "mofo measure: the tuned model got worse on divergence\n"
    assert cli.main([*argv[:-1], "--tuned", tiny_model, "--fail-on", "divergence,text loss"]) == 0
    assert capsys.readouterr().err == ""


def test_number_behind_fail_on_is_refused(capsys):
    assert cli.main(["measure", "--base", "b", "--tuned", "t", "--fail-on", "text,divergence<0.05"]) == 2
    expected = "mofo measure: --fail-on takes probes without a number: mofo gate holds a model to divergence<0.05.\n"
    assert capsys.readouterr().err == expected


CHANGED = [{"question": "what is blue?", "choices": ["the sky", "the old king", "a coat"], "answer": 0}] * 6


def test_page_and_json_hold_the_questions_that_changed(capsys, tiny_model, tmp_path):
    tuned = saved(moved(tiny_model, by=0.5, share=1), tmp_path / "tuned", tiny_model)
    questions = tmp_path / "quiz.jsonl"
    rows = [row | {"question": f"{n}: {row['question']}", "answer": n % 3} for n, row in enumerate(CHANGED)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page, numbers, answers = (tmp_path / name for name in ("page.html", "numbers.json", "answers"))
    argv = ["measure", "--base", tiny_model, "--tuned", tuned, "--probes", f"choice:{questions}"]
    argv += ["--output", str(page), "--output", str(numbers), "--save-answers", str(answers)]
    assert cli.main(argv) == 0
    assert capsys.readouterr().out.endswith(f"Written: {page}\nWritten: {numbers}\n")
    found = json.loads(numbers.read_text())
    paired = found["tuned"]["paired"]["forgotten"]["quiz"]["accuracy"]
    changed = {str(place) for place in (*paired["lost_questions"], *paired["won_questions"])}
    quoted = found["questions"].get("quiz", {}).get("accuracy", {})
    assert changed, "the tuned model was moved far: some answer is another"
    assert quoted.keys() == changed
    kept = [[json.loads(row) for row in (answers / role / "quiz.jsonl").open()] for role in ("base", "tuned")]
    for place, asked in quoted.items():
        both = [rows[int(place)] for rows in kept]
        assert (asked["base"], asked["tuned"]) == tuple(answer["given"] for answer in both)
        assert asked["question"] == both[0]["question"]
        assert asked["question"] in page.read_text()
    for role, folder in (("base", tiny_model), ("tuned", tuned)):
        weights = (Path(folder) / "model.safetensors").read_bytes()
        assert found[role]["sha256"] == hashlib.sha256(weights).hexdigest()
        assert found[role]["sha256"] in page.read_text()


@pytest.mark.parametrize("command", ["measure", "gate"])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("page.pdf", "says no format: expected a name that ends in .json, .csv, .md or .html"),
        ("none/page.html", "does not exist: make it first"),
        ("there.html", "exists: give another --output, or remove it first"),
    ],
)
def test_output_that_cannot_be_written_is_refused_first(capsys, tmp_path, command, name, sentence):
    (tmp_path / "there.html").write_text("kept")
    models = ["--base", "none", "--tuned", "none"] if command == "measure" else ["none", "none"]
    assert cli.main([command, *models, "--output", str(tmp_path / name)]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")
    assert (tmp_path / "there.html").read_text() == "kept"


def test_results_are_shown_even_if_they_cannot_be_written(capsys, tiny_model, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mofo.report.pair_files.write_text", full)
    argv = ["measure", "--base", tiny_model, "--tuned", tiny_model, "--probes", "text"]
    assert cli.main([*argv, "--output", str(tmp_path / "page.html")]) == 2
    printed = capsys.readouterr()
    assert "no change beyond noise on text loss" in printed.out
    assert printed.err == f"mofo measure: {tmp_path / 'page.html'} cannot be written: No space left on device.\n"

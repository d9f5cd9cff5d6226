"""`mofo measure`."""

import json
from pathlib import Path

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
    argv = ["measure", "--base", tiny_model, "--probes", "divergence,text", "--csv"]
    assert cli.main([*argv, "--tuned", worse, "--fail-on", "divergence"]) == 3
    printed = capsys.readouterr()
    assert printed.out.startswith("metric,probe,")
    assert printed.err == "mofo measure: the tuned model got worse on divergence\n"
    assert cli.main([*argv, "--tuned", tiny_model, "--fail-on", "divergence,text loss"]) == 0
    assert capsys.readouterr().err == ""


def test_number_behind_fail_on_is_refused(capsys):
    assert cli.main(["measure", "--base", "b", "--tuned", "t", "--fail-on", "text,divergence<0.05"]) == 2
    expected = "mofo measure: --fail-on takes probes without a number: mofo gate holds a model to divergence<0.05.\n"
    assert capsys.readouterr().err == expected

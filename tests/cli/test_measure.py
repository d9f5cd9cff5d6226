"""`mofo measure`."""

import json

from mofo import cli


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
    assert cli.main(argv.split()) == 130
    expected = {"data": "d.jsonl", "rows": 7, "probes": ["text", "choice:q.jsonl"], "trust_remote_code": True}
    expected |= {"max_length": 64, "turns": "last", "columns": {"question": "Q", "answer": "A"}}
    assert seen == [(("b", "t"), expected)]


def test_interrupted_measuring_promises_nothing(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mofo.measure.pair.measure_pair", interrupt)
    assert cli.main(["measure", "--base", "b", "--tuned", "t"]) == 130
    assert capsys.readouterr().err == "mofo measure: interrupted\n"

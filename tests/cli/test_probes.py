import json

import pytest

from mofo.cli import main
from mofo.measure import make_probes
from mofo.measure.harness.probe import HarnessProbe
from mofo.measure.kinds import KINDS
from mofo.models.load import load_model


def test_probes_lists_every_kind_with_direction_cost_and_examples(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "240")
    assert main(["probes"]) == 0
    shown = capsys.readouterr().out
    for name, kind in KINDS.items():
        assert f"\n{name} " in f"\n{shown}"
        assert all(text in shown for text in (kind.better, kind.cost, *kind.usage))


@pytest.mark.parametrize("name", KINDS)
def test_probes_explains_a_kind(capsys, name):
    assert main(["probes", name]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith((KINDS[name].__doc__ or "").strip().splitlines()[0])
    assert f"{KINDS[name].better} is better." in shown
    assert "Args:" not in shown
    assert all(f"--probes {usage}" in shown for usage in KINDS[name].usage)


def test_probes_as_json_are_read_by_programs(capsys):
    assert main(["probes", "--json"]) == 0
    assert [info["name"] for info in json.loads(capsys.readouterr().out)] == list(KINDS)
    assert main(["probes", "choice", "--json"]) == 0
    (choice,) = json.loads(capsys.readouterr().out)
    assert (choice["better"], choice["usage"]) == ("higher", ["choice", "choice:FILE.jsonl"])


def test_probes_names_the_closest_to_an_unknown_one(capsys):
    assert main(["probes", "chioce"]) == 2
    assert capsys.readouterr().err == (
        "mofo probes: There is no probe 'chioce' (did you mean choice?): `mofo probes` lists all.\n"
    )


def test_probes_say_the_direction_that_their_metrics_have(tiny_model):
    base, tokenizer = load_model(tiny_model)
    own = [name for name, kind in KINDS.items() if not issubclass(kind, HarnessProbe)]
    for probe in make_probes(own, base=base, tokenizer=tokenizer):
        directions = {"higher" if metric.higher_is_better else "lower" for metric in probe.metrics}
        assert directions == {type(probe).better}

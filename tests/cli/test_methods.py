import json

import pytest

from mofo.cli import main
from mofo.methods.parts import PARTS


def test_methods_lists_every_part_with_its_source(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["methods"]) == 0
    shown = capsys.readouterr().out
    for part in PARTS:
        assert f"\n{part.name} " in f"\n{shown}"
        assert part.source in shown


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_methods_explains_a_part(capsys, part):
    assert main(["methods", part.name]) == 0
    shown = capsys.readouterr().out
    assert part.label in shown
    assert part.cost
    assert part.cost in shown
    for name, field in part.model_fields.items():
        assert f"{name} = {field.default}: {field.description}" in shown


def test_methods_as_json_are_read_by_programs(capsys):
    assert main(["methods", "--json"]) == 0
    assert [info["name"] for info in json.loads(capsys.readouterr().out)] == [part.name for part in PARTS]
    assert main(["methods", "lora", "--json"]) == 0
    (lora,) = json.loads(capsys.readouterr().out)
    assert lora["settings"]["rank"]["default"] == 16


def test_methods_names_the_closest_to_an_unknown_one(capsys):
    assert main(["methods", "lara"]) == 2
    assert capsys.readouterr().err == (
        "mofo methods: There is no method 'lara' (did you mean lora?): `mofo methods` lists all.\n"
    )

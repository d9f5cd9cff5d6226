import pytest

from mofo.errors import UserError
from mofo.methods.method import Method, check_settings, expand, make_method
from mofo.methods.mofo import MoFO
from mofo.methods.part import OptimizerPart, Part, note_of, setting
from mofo.methods.parts import PARTS


class Pull(Part):
    """An extra with settings of several kinds."""

    name = "pull"
    label = "Pull"

    strength: float = setting(0.1, "how strong", short="strength", ge=0)
    data: str = setting("", "a file")
    norm: str = setting("l2", "which norm", variants={"l1": "L1"})


@pytest.fixture(autouse=True)
def _parts(monkeypatch):
    monkeypatch.setattr("mofo.methods.parts.PARTS", (*PARTS, Pull))


def names(entry, **settings):
    return [method.run_name for method in expand(entry, settings)]


def test_expand_makes_every_combination_of_listed_values():
    assert names("mofo", learning_rate=[1e-4, "2e-4"], fraction=[0.05, 0.15]) == [
        "mofo-lr0.0001-f0.05",
        "mofo-lr0.0001-f0.15",
        "mofo-lr0.0002-f0.05",
        "mofo-lr0.0002-f0.15",
    ]


def test_expand_takes_the_entrys_own_settings_before_those_of_the_part_before_common_ones():
    assert names({"pull": {"strength": 3}}, **{"pull.strength": 2, "strength": 1}) == [
        "adamw+pull-lr0.0001-pull.strength3"
    ]
    assert names("pull", **{"pull.strength": 2, "strength": 1}) == ["adamw+pull-lr0.0001-pull.strength2"]
    assert names("pull", strength=1) == ["adamw+pull-lr0.0001-pull.strength1"]


def test_expand_leaves_settings_out_that_a_method_does_not_have():
    assert names("adamw", fraction=[0.05, 0.15]) == ["adamw-lr0.0001"]


def test_expand_gives_adamw_to_extras_without_an_optimizer_and_keeps_the_optimizer_first():
    (method,) = expand("pull+mofo", {})
    assert [part.name for part in method.parts] == ["mofo", "pull"]
    assert expand("pull", {})[0].optimizer.name == "adamw"


def test_run_names_have_what_is_not_the_default_and_are_names_of_folders():
    assert names({"mofo": {"weight_decay": 0.1}}) == ["mofo-lr0.0001-weight_decay0.1-f0.15"]
    assert names({"mofo": {}, "pull": {"data": "../rows.jsonl"}}) == [
        "mofo+pull-lr0.0001-f0.15-pull.strength0.1-pull.data.._rows.jsonl"
    ]


def test_variants_are_methods_of_their_own_with_labels():
    gradient, plain = expand({"mofo": {"score": ["gradient", "momentum"]}, "pull": {"norm": "l1"}}, {})
    assert (gradient.name, gradient.info.label) == ("mofo-gradient+pull-l1", "MoFO (gradient) + Pull (L1)")
    assert (plain.name, plain.info.label) == ("mofo+pull-l1", "MoFO + Pull (L1)")
    assert "score" not in gradient.settings


def test_settings_are_keyed_by_extra_and_explained():
    (method,) = expand({"mofo": {}, "pull": {}}, {})
    assert method.settings == {"learning_rate": 1e-4, "fraction": 0.15, "pull.strength": 0.1}
    assert method.setting_info("learning_rate").label == "lr"
    assert method.setting_info("pull.strength").label == "Pull strength"
    assert method.setting_info("pull.strength").description == "how strong"


def test_to_dict_is_read_by_make_method():
    method = Method(MoFO(fraction=0.3, score="random"), (Pull(strength=2, norm="l1"),))
    assert make_method(method.to_dict()) == method


@pytest.mark.parametrize(
    ("entry", "settings", "message"),
    [
        ("adam", {}, r"Unknown method 'adam' \(did you mean adamw\?\): choose from adamw, mofo"),
        ("mofo-gradient", {}, "is mofo with the setting mofo.score = gradient"),
        ("mofo+adamw", {}, "one optimizer, not mofo and adamw"),
        ("mofo+mofo", {}, "names a part twice"),
        ({"mofo": 3}, {}, "methods has mofo: 3, expected a mapping of settings"),
        ({"mofo": {"fractoin": 1}}, {}, r"mofo has no setting 'fractoin' \(did you mean fraction\?\)"),
        ({"mofo": {"fraction": 1.5}}, {}, "mofo.fraction is 1.5, expected at most 1"),
        ({"mofo": {"fraction": True}}, {}, "fraction is True"),
        ({"mofo": {"score": "loss"}}, {}, "mofo.score is 'loss', expected 'momentum'"),
        ("mofo", {"fraction": []}, "mofo.fraction is empty"),
        ("mofo", {"learning_rate": "fast"}, "mofo.learning_rate is 'fast', expected a number"),
        ("mofo", {"learning_rate": "nan"}, "expected a finite number"),
    ],
)
def test_expand_refuses_what_is_no_method(entry, settings, message):
    with pytest.raises(UserError, match=message):
        expand(entry, settings)


def test_check_settings_knows_qualified_and_common_names():
    check_settings({"learning_rate": 1, "mofo.fraction": 1, "pull.strength": 1})
    with pytest.raises(UserError, match=r"No method has a setting 'fractoin' \(did you mean fraction\?\)"):
        check_settings({"fractoin": 1})


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_part_explains_itself_and_its_settings(part):
    assert part.__doc__
    assert part.label
    assert part.source
    for name, field in part.model_fields.items():
        assert field.description, name
        assert note_of(part, name).label
    assert issubclass(part, OptimizerPart) or part.name

"""Reading, checking and merging results."""

import json
from pathlib import Path

import pytest
from fake import make_results, write_results

from mofo.errors import UserError
from mofo.report import load_results
from mofo.report.comparison import headlines, measures, methods, planned_methods, settings


def test_a_written_file_comes_back(tmp_path):
    results = make_results()
    assert load_results(write_results(tmp_path, results)) == results


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"results\.json does not exist"):
        load_results(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ('{"schema": 1, "runs": [', "not valid JSON"),
        ("[]", "schema None"),
        ("{}", "schema None"),
        ('{"schema": 2}', "schema 2, expected 1"),
        ('{"schema": 1}', "lacks recipe, base, runs"),
        (
            '{"schema": 1, "recipe": {}, "base": {"learned": {}, "forgotten": {}}, "runs": []}',
            "base.learned lacks loss",
        ),
        (
            '{"schema": 1, "recipe": {}, "base": {"learned": {"loss": 2}, "forgotten": {}}, "runs": [{}]}',
            r"runs\[0\] lacks name",
        ),
        (
            '{"schema": 1, "recipe": {}, "base": {"learned": {"loss": NaN}, "forgotten": {}}, "runs": []}',
            "not finite",
        ),
    ],
)
def test_damaged_files_are_refused_with_the_reason(tmp_path, content, message):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_results(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "results.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not valid JSON"):
        load_results(tmp_path)


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    (tmp_path / "results.json").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        load_results(tmp_path)


def test_settings_pool_seeds_and_sort_by_method_learning_rate_and_fraction():
    results = make_results(learning_rates=(3e-4, 1e-4), fractions=(0.2, 0.05), seeds=(0, 1, 2))
    groups = settings(results)
    assert {len(runs) for runs in groups.values()} == {3}
    order = [(setting.method, *dict(setting.options).values()) for setting in groups]
    assert order[:2] == [("adamw", 1e-4), ("adamw", 3e-4)]
    assert next(dict(s.options) for s in groups if s.method == "mofo") == {"learning_rate": 1e-4, "fraction": 0.05}
    assert methods(results) == ["adamw", "mofo"]


def test_runs_without_a_point_are_not_measured_yet():
    results = make_results()
    for run in results["runs"]:
        if run["method"] == "mofo":
            run["points"] = []
    assert methods(results) == ["adamw"]


def test_measures_come_from_the_base_and_choice_headlines_are_log_probabilities():
    results = make_results(probes={"wikitext2": {"loss": 3.0}})
    assert [*map(tuple, measures(results))] == [
        ("text", "loss"),
        ("divergence", "kl"),
        ("choice", "accuracy"),
        ("choice", "log_probability"),
        ("wikitext2", "loss"),
    ]
    assert ("choice", "accuracy") not in headlines(results)
    assert len(headlines(results)) == 4


def test_a_method_entry_with_its_own_grid_names_its_method():
    results = make_results(methods=("adamw", "mofo"))
    results["recipe"]["methods"] = [{"method": "mofo", "seeds": [0]}, "adamw", {"method": "mofo", "seeds": [1]}]
    assert planned_methods(results) == ["mofo", "adamw"]
    assert methods(results) == ["mofo", "adamw"]


def test_the_documented_example_is_valid(tmp_path):
    """docs/results.md shows an example; what it shows must load."""
    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    example = text.split("```json\n")[1].split("```")[0]
    assert load_results(write_results(tmp_path, json.loads(example)))["schema"] == 1

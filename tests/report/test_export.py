"""Results as CSV and Markdown."""

import csv
import io

import pytest
from fake import make_comparison, make_results, set_path

from mofo.report import Comparison, legend, to_csv, to_markdown


def test_csv_has_a_row_per_configuration_with_every_digit():
    comparison = make_comparison(learning_rates=(1e-4, 3e-4), seeds=(0, 1, 2))
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert [(row["method"], row["learning_rate"], row["fraction"], row["seeds"], row["step"]) for row in rows] == [
        ("adamw", "0.0001", "", "3", "60"),
        ("adamw", "0.0003", "", "3", "60"),
        ("mofo", "0.0001", "0.15", "3", "60"),
        ("mofo", "0.0003", "0.15", "3", "60"),
    ]
    divergence = comparison.at_end(comparison.configurations[0], comparison.probe_headlines[1])
    assert float(rows[0]["divergence"]) == divergence.mean
    assert float(rows[0]["divergence std"]) == divergence.std
    assert rows[0]["divergence error"] == ""


def test_csv_and_markdown_name_a_run_that_diverged():
    results = make_results(learning_rates=(1e-4,))
    set_path(results.runs[0], [(1.5, 0.1), (None, 0.1), (None, 0.1)])
    comparison = Comparison(results)
    row = next(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert row["diverged"] == "diverged at step 40"
    assert row["divergence"] == ""
    assert "lr 1e-4 (diverged at step 40) | 1 | – |" in to_markdown(comparison)


def test_markdown_is_one_table_with_the_base_first():
    lines = to_markdown(make_comparison(learning_rates=(1e-4,))).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert table[0].startswith("| method | settings | seeds | held-out loss, nats per token |")
    assert table[2].startswith("| base |  |  | 2.110 | 0 |")
    assert table[3].startswith("| AdamW | lr 1e-4 | 1 | 1.")
    assert lines[-1].endswith("change from the base, positive is worse.")


def test_markdown_escapes_bars():
    assert "my\\|probe loss" in to_markdown(make_comparison(probes={"my|probe": {"loss": 2.0}}))


def test_legend_has_a_line_per_probe_with_the_bases_number():
    results = make_results(learning_rates=(1e-4,))
    metrics = [m.model_copy(update={"description": "loss on a story"}) for m in results.metrics[2:3]]
    lines = legend(Comparison(results.model_copy(update={"metrics": [*results.metrics[:1], *metrics]})))
    assert lines == ["text loss: loss on a story (base 3.72)"]


@pytest.mark.parametrize("make", [to_csv, to_markdown])
def test_exports_without_runs_have_a_head(make):
    results = make_results()
    results.runs.clear()
    assert "method" in make(Comparison(results))

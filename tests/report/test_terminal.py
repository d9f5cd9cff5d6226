"""Numbers as they are written, and the tables for terminal and page."""

import re

import pytest
from fake import make_results
from rich.console import Console

from mofo.report import summary_table
from mofo.report.comparison import Measure, last_step, measures
from mofo.report.formatting import method_name, number, option_value, pooled
from mofo.report.fronts import Pooled
from mofo.report.terminal import cost_rows, end_rows, equal_learning_table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.2345, "1.23"),
        (-0.01234, "−0.0123"),
        (0.000012, "0.0000"),
        (-0.000012, "0.0000"),
        (123.4, "123"),
        (12345.6, "12,346"),
        (2.5e9, "2.5e9"),
        (None, "–"),
    ],
)
def test_numbers_have_three_significant_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (0.2123, None, "0.212"),
        (0.2123, 0.0234, "0.21 ± 0.02"),
        (0.2123, 0.0134, "0.212 ± 0.013"),
        (0.2123, 0.00004, "0.2123 ± 0.0000"),
        (0.0, 0.02, "0.00 ± 0.02"),
        (4.45, 0.0, "4.45 ± 0.00"),
        (250.4, 8.1, "250 ± 8"),
    ],
)
def test_means_are_cut_where_the_spread_begins(mean, std, text):
    assert pooled(Pooled(mean, std, 3)) == text


def test_accuracies_are_shown_in_points():
    assert pooled(Pooled(0.0123, None, 1), Measure("choice", "accuracy")) == "1.23"


@pytest.mark.parametrize(
    ("value", "text"), [(1e-4, "1e-4"), (5e-5, "5e-5"), (1.5e-4, "1.5e-4"), (0.15, "0.15"), (8, "8")]
)
def test_options(value, text):
    assert option_value(value) == text


def test_method_names():
    assert [*map(method_name, ["adamw", "mofo-momentum_over_rms", "mofo-random", "new"])] == [
        "AdamW",
        "MoFO (m/√v)",
        "MoFO (random)",
        "new",
    ]


def rendered(results, width=200):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(results))
    return console.export_text()


def test_summary_has_a_row_per_setting_and_pools_seeds():
    text = rendered(make_results(seeds=(0, 1, 2)))
    assert text.count("AdamW") == 4
    assert text.count("MoFO") == 4
    assert "±" in text
    assert "seeds" in text
    assert "5e-5" in text


def test_summary_of_one_seed_has_no_spread():
    text = rendered(make_results())
    assert "±" not in text
    assert "seeds" not in text


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_a_terminal_of_eighty_columns_loses_no_number(seeds):
    results = make_results(learning_rates=(1e-4, 3e-4), seeds=seeds)
    wide, narrow = rendered(results), rendered(results, width=80)
    assert sorted(re.findall(r"\d\S*\d", narrow)) == sorted(re.findall(r"\d\S*\d", wide))


def test_differing_numbers_of_seeds_are_a_column():
    results = make_results(learning_rates=(1e-4, 3e-4), seeds=(0, 1))
    results["runs"].pop()
    assert "n: seeds" in rendered(results)


def test_markup_in_a_probe_name_is_text():
    assert "[red]mine" in rendered(make_results(probes={"[red]mine": {"loss": 2.0}}))


def test_equal_steps_leave_out_runs_that_have_not_come_so_far():
    results = make_results(learning_rates=(1e-4,))
    results["runs"][1]["points"].pop()
    rows = end_rows(results, measures(results))
    assert last_step(results) == 60
    assert [row.setting.method for row in rows] == ["adamw"]


def test_a_run_that_broke_does_not_vanish_in_a_mean():
    results = make_results(methods=("adamw",), learning_rates=(1e-4,), seeds=(0, 1))
    results["runs"][0]["points"][-1]["learned"]["loss"] = float("nan")
    assert end_rows(results, [])[0].cells[0] == "–"


def test_costs():
    results = make_results(methods=("adamw",), learning_rates=(1e-4,))
    results["runs"][0]["seconds"] = {"optimizer": 6.0, "training": 120.0, "measuring": 30.0, "total": 151.0}
    results["runs"][0]["peak_memory_bytes"] = 3_100_000_000
    assert cost_rows(results)[0].cells == ["0.100 s/step", "5.00 %", "120 s", "30.0 s", "151 s", "3.10 GB"]


def test_settings_that_passed_a_loss_early_are_counted():
    results = make_results(methods=("mofo",), learning_rates=(1e-4, 3e-4), every=20)
    for run, losses in zip(results["runs"], [(1.6, 1.4, 1.2), (1.3, 1.2, 1.1)], strict=True):
        for point, loss in zip(run["points"], losses, strict=True):
            point["learned"]["loss"] = loss
    notes = {loss: rows[0].note for loss, rows in equal_learning_table(results, [Measure("divergence", "kl")])}
    assert list(notes.values()) == [
        "1 of 2 settings",
        "1 of 2 settings",
        "2 of 2 settings",
        "2 of 2 settings, 1 left out",
    ]


def test_only_what_is_ahead_by_more_than_the_spread_is_best():
    results = make_results(seeds=(0, 1, 2), noise=0.001)
    _, rows = equal_learning_table(results, [Measure("divergence", "kl")])[0]
    assert [row.cells[0].best for row in rows] == [False, True]
    one_seed = equal_learning_table(make_results(), [Measure("divergence", "kl")])
    assert not any(row.cells[0].best for _, rows in one_seed for row in rows)

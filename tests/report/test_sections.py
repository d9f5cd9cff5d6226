"""The tables of the page, section by section."""

import pytest
from fake import TASK, change_runs, make_comparison, make_results

from mofo.report import Comparison
from mofo.report.sections import cost, equal_learning, equal_steps, limits
from mofo.results import Seconds


def column(table, head):
    """The texts of a column, from all rows."""
    place = [cell.text for cell in table.heads].index(head)
    return [row.cells[place].text for group in table.groups for row in group.rows]


def test_equal_steps_leave_out_runs_that_have_not_come_so_far():
    results = make_results(learning_rates=(1e-4,))
    results.runs[1].points.pop()
    comparison = Comparison(results)
    assert comparison.last_step == 60
    table = equal_steps.section(comparison).table
    assert [row.head.text for row in table.groups[0].rows] == ["AdamW"]


def test_equal_steps_show_a_run_that_broke():
    results = make_results(methods=("adamw",), learning_rates=(1e-4,), seeds=(0, 1))
    results.runs[0].points[-1].learned[TASK]["loss"] = None
    table = equal_steps.section(Comparison(results)).table
    assert column(table, "held-out loss") == ["–"]


def test_equal_steps_name_settings_that_are_the_same_everywhere_once():
    section = equal_steps.section(make_comparison(learning_rates=(1e-4, 3e-4)))
    assert section.caption == "The same in all runs that have it: fraction\u00a00.15."
    assert [row.head.note for row in section.table.groups[0].rows] == ["lr\u00a01e-4", "lr\u00a03e-4"] * 2


def with_seconds(seconds, memory):
    results = make_results(methods=("adamw",), learning_rates=(1e-4,))
    return Comparison(
        change_runs(results, lambda run: run.model_copy(update={"seconds": seconds, "peak_memory_bytes": memory}))
    )


def test_cost_of_a_run():
    section = cost.section(
        with_seconds(Seconds(optimizer=6.0, training=120.0, measuring=30.0, total=151.0), 3_100_000_000)
    )
    assert section.title == "Time and memory"
    assert [cell.text for cell in section.table.groups[0].rows[0].cells] == [
        "0.100",
        "5.00",
        "120",
        "30.0",
        "151",
        "3.10",
    ]
    assert [head.note for head in section.table.heads] == ["s per step", "% of training", "s", "s", "s", "GB"]


@pytest.mark.parametrize(
    ("seconds", "memory", "title", "heads"),
    [
        (None, 3_100_000_000, "Memory", ["peak memory"]),
        (Seconds(total=151.0), None, "Time", ["total"]),
        (Seconds(optimizer=6.0), None, "Time", ["optimizer"]),
    ],
)
def test_cost_shows_what_was_recorded(seconds, memory, title, heads):
    section = cost.section(with_seconds(seconds, memory))
    assert section.title == title
    assert [head.text for head in section.table.heads] == heads


def test_cost_that_was_not_recorded_has_no_section():
    assert cost.section(with_seconds(None, None)) is None


def test_equal_learning_counts_configurations_that_passed_a_loss_early():
    results = make_results(methods=("mofo",), learning_rates=(1e-4, 3e-4), every=20)
    for run, losses in zip(results.runs, [(1.6, 1.4, 1.2), (1.3, 1.2, 1.1)], strict=True):
        for point, loss in zip(run.points, losses, strict=True):
            point.learned[TASK]["loss"] = loss
    groups = equal_learning.section(Comparison(results)).table.groups
    assert [group.rows[0].head.note for group in groups] == [
        "1 of 2 configurations",
        "1 of 2 configurations",
        "2 of 2 configurations",
        "2 of 2 configurations, 1 left out",
    ]


def divergence_cells(comparison):
    table = equal_learning.section(comparison).table
    place = [head.text for head in table.heads].index("divergence")
    return [[row.cells[place] for row in group.rows] for group in table.groups]


def test_equal_learning_marks_as_best_what_is_ahead_by_more_than_the_spread():
    cells = divergence_cells(make_comparison(seeds=(0, 1, 2), noise=0.001))
    assert [cell.bold for cell in cells[0]] == [False, True]
    assert not any(cell.bold for row in divergence_cells(make_comparison()) for cell in row)


def test_limits_name_runs_that_diverged():
    results = make_results(learning_rates=(1e-4,))
    results.runs[0].points[1].learned[TASK]["loss"] = None
    assert "not a finite number: adamw-lr0.0001-s0" in limits.section(Comparison(results)).items[-1]


def test_limits_say_what_seeds_show():
    assert "One seed per configuration" in limits.section(make_comparison()).items[0]
    assert "3 seeds per configuration" in limits.section(make_comparison(seeds=(0, 1, 2))).items[0]
    results = make_results(seeds=(0, 1))
    results.runs.pop()
    assert "1 to 2 seeds per configuration" in limits.section(Comparison(results)).items[0]

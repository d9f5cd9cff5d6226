"""The tables of the page, section by section."""

from itertools import pairwise

import pytest
from fake import TASK, change_runs, make_comparison, make_results, set_path
from matplotlib.figure import Figure

from mofo.report import Comparison
from mofo.report.sections import cost, equal_learning, equal_steps, limits, reading, samples
from mofo.results import Errors, Sample, Seconds


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


def test_equal_learning_marks_configurations_that_were_past_a_loss_at_their_first_checkpoint():
    results = make_results(methods=("mofo",), learning_rates=(1e-4, 3e-4), every=20)
    for run, losses in zip(results.runs, [(1.6, 1.4, 1.2), (1.3, 1.2, 1.1)], strict=True):
        for point, loss in zip(run.points, losses, strict=True):
            point.learned[TASK]["loss"] = loss
    groups = equal_learning.section(Comparison(results)).table.groups
    assert [group.rows[0].head.note for group in groups] == [
        "1 of 2 configurations",
        "1 of 2 configurations",
        "2 of 2 configurations",
        "2 of 2 configurations",
    ]
    for run, amount in zip(results.runs, (0.2, 0.1), strict=True):
        for point in run.points:
            point.forgotten["divergence"]["kl"] = amount
    cells = divergence_cells(Comparison(results))
    assert [cell.text for (cell,) in cells] == ["0.100", "0.100", "0.100", "0.100*"]


def divergence_cells(comparison):
    table = equal_learning.section(comparison).table
    place = [head.text for head in table.heads].index("divergence")
    return [[row.cells[place] for row in group.rows] for group in table.groups]


def test_equal_learning_marks_as_best_what_is_ahead_by_more_than_the_spread():
    cells = divergence_cells(make_comparison(seeds=(0, 1, 2), noise=0.001))
    assert [cell.bold for cell in cells[0]] == [True, False]  # the first forgot less
    assert not any(cell.bold for row in divergence_cells(make_comparison()) for cell in row)


def test_equal_learning_is_ordered_by_what_was_forgotten_and_ends_with_what_is_not_compared():
    results = make_results(methods=("adamw", "mofo", "mofo-random"), learning_rates=(1e-4,), seeds=(0, 1, 2))
    for run in results.runs:
        if run.method == "adamw":
            for point in run.points:
                point.learned[TASK]["loss"] = 2.0
    section = equal_learning.section(Comparison(results))
    heads = [row.head for row in section.table.groups[0].rows]
    assert [head.text for head in heads] == ["MoFO", "MoFO (random)", "AdamW"]
    assert heads[-1].note == "learned too little, 2.000 at best"
    assert section.caption.startswith("Ordered by text loss. ")


def test_equal_learning_gives_each_method_as_much_room_as_its_label_takes():
    results = make_results(methods=("adamw", "mofo", "mofo-random"), fractions=(0.05, 0.15))
    long = "AdamW and a KL term on text and conversations of the base, in each fourth step"
    results.methods["mofo"] = results.methods["mofo"].model_copy(update={"label": long})
    results.settings["fraction"] = results.settings["fraction"].model_copy(update={"label": f"fraction ({long})"})
    panel, *_ = equal_learning.section(Comparison(results)).plot.panels
    figure = Figure(figsize=(5, panel.height), layout="constrained")
    axes = figure.subplots()
    panel.draw(axes)
    figure.draw_without_rendering()
    labels = [label.get_window_extent() for label in axes.get_yticklabels()]
    for upper, lower in pairwise(sorted(labels, key=lambda box: -box.y0)):
        assert upper.y0 > lower.y1


def test_equal_learning_says_what_lies_within_noise():
    results = make_results(learning_rates=(1e-4,))
    errors = Errors(forgotten={"text": {"loss": 0.5}, "divergence": {"kl": 0.001}})

    def change(run):
        points = [point.model_copy(update={"change_errors": errors}) for point in run.points]
        return run.model_copy(update={"points": points})

    table = equal_learning.section(Comparison(change_runs(results, change))).table
    assert [cell.note for cell in table.groups[0].rows[0].cells[:2]] == ["within\u00a0noise", ""]


def test_reading_explains_each_metric_with_the_bases_number():
    results = make_results(learning_rates=(1e-4,))
    metrics = [m.model_copy(update={"description": "mean loss on a story"}) for m in results.metrics[2:3]]
    results = results.model_copy(update={"metrics": [*results.metrics[:2], *metrics, *results.metrics[3:]]})
    terms = reading.section(Comparison(results)).terms
    assert terms["text loss"] == "Mean loss on a story; in nats per token, lower is better. The base has 3.72."
    assert terms["choice accuracy"] == "In percentage points, higher is better. The base has 61.2."


def test_samples_show_the_base_and_the_best_run_of_each_method():
    results = make_results(learning_rates=(1e-4, 3e-4))
    results = results.model_copy(update={"samples": [Sample(prompt="2 + 3?", expected="5", answer="four")]})
    results = change_runs(results, lambda run: run.model_copy(update={"samples": [run.name]}))
    set_path(results.runs[1], [(1.5, 0.1), (1.4, 0.1), (None, 0.1)])
    (conversation,) = samples.section(Comparison(results)).conversations
    assert (conversation.prompt, conversation.expected) == ("2 + 3?", "5")
    assert [(written.author, written.text) for written in conversation.answers] == [
        ("base", "four"),
        ("AdamW, lr\u00a01e-4", "adamw-lr0.0001-s0"),  # the other one diverged
        ("MoFO, lr\u00a03e-4", "mofo-f0.15-lr0.0003-s0"),
    ]


def test_samples_that_were_not_written_have_no_section():
    assert samples.section(make_comparison()) is None


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


def test_limits_name_numbers_of_configurations_where_they_differ():
    favours = "favours methods with more of them (AdamW 4, MoFO 8)"
    assert any(favours in item for item in limits.section(make_comparison(fractions=(0.05, 0.15))).items)
    assert not any("favours" in item for item in limits.section(make_comparison()).items)


def test_limits_count_rows_that_were_not_used_as_they_are():
    comparison = make_comparison()
    assert not any("rows" in item for item in limits.section(comparison).items)
    plan = comparison.results.plan.model_copy(update={"rows": {"training rows cut at max_length": 1200}})
    results = comparison.results.model_copy(update={"plan": plan})
    assert "Not all rows were used as they are: 1,200 training rows cut at max_length." in (
        limits.section(Comparison(results)).items
    )

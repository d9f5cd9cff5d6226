"""Several tasks in the report: matrices, what was lost when, and the sections of the page."""

import pytest
from fake import change_runs, make_results, make_sequence, write_results

from mofo.report import Comparison, make_answer, sequence_table, write_report
from mofo.report.sections import courses, matrices, sequence
from mofo.report.sequences import matrix_of, outcomes, quantities, reference_rows, sequence_verdict


@pytest.fixture(scope="module")
def comparison():
    return Comparison(make_sequence(seeds=(0, 1, 2)))


def test_quantities_are_losses_and_scores_of_all_tasks(comparison):
    assert [(q.label, q.higher_is_better, [m.source for m in q.metrics]) for q in quantities(comparison)] == [
        ("held-out loss", False, ["reviews", "proofs", "code"]),
        ("accuracy", True, ["reviews", "proofs", "code"]),
    ]
    assert [q.label for q in quantities(Comparison(make_sequence(scores=False)))] == ["held-out loss"]
    assert quantities(Comparison(make_results())) == []


def test_matrix_has_a_row_for_each_task_from_where_it_ended(comparison):
    losses, scores = quantities(comparison)
    run = comparison.runs[0]
    matrix = matrix_of(comparison, run, losses)
    ends = run.points[1::2]
    assert [list(row) for row in matrix.rows] == [
        [point.learned[task]["loss"] for task in ("reviews", "proofs", "code")] for point in ends
    ]
    assert matrix.base[0] == comparison.results.base.learned["reviews"]["loss"]
    assert matrix_of(comparison, run, scores).rows[0][0] == 100 * ends[0].learned["reviews"]["accuracy"]
    assert matrix_of(comparison, run.model_copy(update={"points": run.points[:4]}), losses) is None


def test_runs_of_other_orders_are_references_and_no_methods(comparison):
    assert comparison.methods == ["adamw", "mofo"]
    losses, _ = quantities(comparison)
    joint, alone = (reference_rows(comparison, losses, order) for order in ("joint", "alone"))
    last = next(run for run in comparison.results.runs if run.method == "adamw-joint").points[-1]
    assert joint["adamw-joint"][0] == [last.learned[task]["loss"] for task in ("reviews", "proofs", "code")]
    assert len(joint["adamw-joint"]) == len(alone["adamw-alone"]) == 3
    only = make_sequence()
    only = only.model_copy(
        update={
            "methods": {name: info for name, info in only.methods.items() if info.order == "joint"},
            "runs": [run for run in only.runs if run.method == "adamw-joint"],
        }
    )
    assert Comparison(only).methods == ["adamw-joint"]  # better than nothing


def test_outcome_is_of_the_settings_with_the_lowest_mean_loss(comparison):
    worse = change_runs(
        make_sequence(methods=["mofo"], references=False),
        lambda run: run.model_copy(update={"name": "worse", "settings": {"learning_rate": 1e-3}}),
    )
    for run in worse.runs:
        for point in run.points:
            point.learned["all tasks"]["loss"] += 1
    both = make_sequence(references=False)
    both = Comparison(both.model_copy(update={"runs": [*worse.runs, *both.runs]}))
    found = {outcome.method: outcome for outcome in outcomes(both, quantities(both)[0])}
    assert found["mofo"].configuration.settings == {"learning_rate": 1e-4}


def test_verdict_says_what_was_lost_when_and_how_sure_that_is(comparison):
    text = sequence_verdict(comparison)
    assert "After all 3 tasks, mean held-out loss is" in text
    assert "with MoFO and up to" in text
    assert "Against AdamW: MoFO lower beyond chance." in text
    assert "AdamW lost most of" in text
    assert "was learned: its held-out loss rose by 0.5" in text
    assert "1 seed each: too few to tell" in sequence_verdict(Comparison(make_sequence()))
    assert sequence_verdict(Comparison(make_results())) == ""
    begun = change_runs(make_sequence(), lambda run: run.model_copy(update={"points": run.points[:3]}))
    assert sequence_verdict(Comparison(begun)) == "No method has gone through all tasks yet."


def test_answer_takes_what_ends_lowest_beyond_chance_or_else_the_reference(comparison):
    answer = make_answer(comparison, "out")
    assert answer.result.startswith("After all 3 tasks")
    assert "At equal learning (mean held-out loss" in answer.result
    assert answer.take.text.startswith("MoFO at lr\u00a01e-4, which had the lowest mean held-out loss")
    assert make_answer(Comparison(make_sequence()), "out").take.text.startswith(
        "AdamW at lr\u00a01e-4, the reference, for"
    )


def test_table_has_each_metric_by_loss_and_by_score(comparison):
    table = sequence.section(comparison).table
    assert [head.text for head in table.heads] == [
        "overall",
        "backward transfer",
        "forward transfer",
        "forgetting",
        "intransigence",
        "intransigence",
    ]
    assert [group.title for group in table.groups] == ["held-out loss, nats per token", "accuracy, %"]
    rows = {row.head.text: row.cells for row in table.groups[0].rows}
    assert list(rows) == ["AdamW", "MoFO", "AdamW, all tasks at once", "AdamW, each task alone"]
    assert rows["AdamW"][1].text.startswith("−")
    assert not rows["AdamW"][1].text.startswith("−0.0")
    assert rows["MoFO"][0].bold
    assert rows["AdamW, all tasks at once"][1].text == "–"


def test_terminal_has_overall_performance_and_backward_transfer(comparison):
    table = sequence_table(comparison)
    heads = [column.header for column in table.columns]
    assert heads == ["method", "overall held-out loss", "backward transfer", "overall accuracy", "backward transfer"]
    assert list(table.columns[0].cells) == ["AdamW", "MoFO"]
    assert all(cell.startswith("−") for cell in table.columns[2].cells)
    assert sequence_table(Comparison(make_results())) is None


def test_sections_of_several_tasks_are_not_drawn_for_one():
    one = Comparison(make_results())
    assert [part.section(one) for part in (sequence, matrices, courses)] == [None, None, None]


def test_page_of_several_tasks_is_drawn(tmp_path, comparison):
    folder = write_results(tmp_path / "out", comparison.results)
    text = write_report(folder).read_text(encoding="utf-8")
    for part in ("One task after the other", "Every task after every task", "Each task over the sequence"):
        assert part in text
    assert {"sequence.png", "matrices.png", "tasks.png"} <= {file.name for file in (folder / "plots").iterdir()}
    assert [panel.title for panel in matrices.section(comparison).plot.panels] == [
        "AdamW: held-out loss",
        "MoFO: held-out loss",
        "AdamW: accuracy",
        "MoFO: accuracy",
    ]

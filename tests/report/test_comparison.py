"""What is derived from results."""

import pytest
from fake import BASE, KL, LOSS, TASK, make_comparison, make_results, path_results

from mofo.report.comparison import Comparison
from mofo.results import Errors, TrainingStep


def measures(metrics):
    return [(metric.source, metric.name) for metric in metrics]


def test_configurations_pool_seeds_and_sort_by_method_and_settings():
    found = make_comparison(learning_rates=(3e-4, 1e-4), fractions=(0.2, 0.05), seeds=(0, 1, 2))
    assert {len(configuration.runs) for configuration in found.configurations} == {3}
    order = [(configuration.method, *configuration.settings.values()) for configuration in found.configurations]
    assert order[:3] == [("adamw", 1e-4), ("adamw", 3e-4), ("mofo", 1e-4, 0.05)]
    assert found.methods == ["adamw", "mofo"]


def test_configurations_sort_numbers_texts_and_missing_settings():
    results = make_results(methods=("mofo",), learning_rates=(1e-4,), fractions=(0.1, 0.2, 0.3, 0.4))
    for run, value in zip(results.runs, ["b", 0.5, True, None], strict=True):
        run.settings["fraction"] = value
    del results.runs[3].settings["fraction"]
    found = [configuration.settings.get("fraction") for configuration in Comparison(results).configurations]
    assert found == [None, 0.5, True, "b"]


def test_runs_without_a_point_are_left_out():
    results = make_results()
    for run in results.runs:
        if run.method == "mofo":
            run.points.clear()
    assert Comparison(results).methods == ["adamw"]
    assert Comparison(results).planned_methods == ["adamw", "mofo"]


def test_methods_come_in_the_order_of_the_file():
    results = make_results(methods=("mofo", "adamw"))
    results.runs.reverse()
    assert Comparison(results).planned_methods == ["mofo", "adamw"]
    assert Comparison(results).methods == ["mofo", "adamw"]


def test_metrics_come_from_the_file_with_one_headline_per_probe():
    found = make_comparison(probes={"wikitext2": {"loss": 3.0}})
    assert measures(found.forgotten) == [
        ("text", "loss"),
        ("divergence", "kl"),
        ("choice", "accuracy"),
        ("choice", "log_probability"),
        ("wikitext2", "loss"),
    ]
    assert ("choice", "accuracy") not in measures(found.probe_headlines)
    assert len(found.probe_headlines) == 4
    assert measures(found.learned) == [(TASK, "loss"), (TASK, "accuracy")]
    assert measures(found.distance_headlines) == [("weights", "l2")]


def test_metrics_that_no_run_has_are_left_out():
    results = make_results()
    for run in results.runs:
        for point in run.points:
            point.learned[TASK]["accuracy"] = None
            del point.forgotten["choice"]
    found = Comparison(results)
    assert measures(found.metrics) == [
        (TASK, "loss"),
        ("text", "loss"),
        ("divergence", "kl"),
        ("weights", "l2"),
        ("weights", "moved"),
    ]


def test_amounts_are_in_the_unit_in_which_they_are_shown():
    found = make_comparison(methods=("adamw",), learning_rates=(1e-4,))
    end = found.runs[0].points[-1]
    accuracy = next(metric for metric in found.forgotten if metric.name == "accuracy")
    lost = BASE["choice"]["accuracy"] - end.forgotten["choice"]["accuracy"]
    assert found.at_end(found.configurations[0], accuracy).mean == pytest.approx(100 * lost)
    moved = next(metric for metric in found.distances if metric.name == "moved")
    assert found.at_end(found.configurations[0], moved).mean == 100.0


def test_trajectory_leaves_out_probes_that_are_not_finite():
    found = Comparison(path_results({("mofo", 1e-4, 0): [(1.5, 0.1), (1.2, float("nan"))]}))
    assert found.trajectory(found.runs[0], KL) == [(2.0, 0.0), (1.5, 0.1)]


def test_trajectory_of_a_run_that_diverged_is_the_base_alone():
    found = Comparison(
        path_results({("mofo", 1e-4, 0): [(1.5, 0.1), (None, 0.2), (float("nan"), 0.3), (1.2, float("nan"))]})
    )
    assert found.trajectory(found.runs[0], KL) == [(2.0, 0.0)]
    assert found.diverged_at(found.runs[0]) == 2
    assert found.divergences == ["MoFO at lr\u00a01e-4 diverged at step 2"]


def test_run_whose_training_loss_was_not_finite_diverged():
    results = path_results({("mofo", 1e-4, 0): [(1.5, 0.1), (1.4, 0.1)], ("mofo", 1e-4, 1): [(1.5, 0.1), (1.4, 0.1)]})
    results.runs[0].training.append(TrainingStep(step=1, loss=None))
    found = Comparison(results)
    assert found.divergences == ["MoFO at lr\u00a01e-4 diverged at step 1 with 1 of 2 seeds"]
    assert found.at_end(found.configurations[0], KL) is None


def test_divergences_of_a_method_are_one_clause():
    found = Comparison(path_results({("mofo", rate, 0): [(None, 0.1)] for rate in (1.0, 2.0)}))
    assert found.divergences == ["MoFO diverged at step 1 (lr\u00a01) and at step 1 (lr\u00a02)"]


def test_error_is_the_mean_over_seeds_in_the_unit_that_is_shown():
    results = path_results({("mofo", 1e-4, seed): [(1.5, 0.1)] for seed in (0, 1)})
    for run, error in zip(results.runs, (0.02, 0.04), strict=True):
        errors = Errors(forgotten={"divergence": {"kl": error}})
        run.points[0] = run.points[0].model_copy(update={"change_errors": errors})
    found = Comparison(results)
    assert found.error(found.configurations[0], KL) == pytest.approx(0.03)
    assert found.at_end(found.configurations[0], KL).error == pytest.approx(0.03)
    assert found.error(found.configurations[0], LOSS) is None


def test_base_text_has_the_standard_error():
    results = path_results({("mofo", 1e-4, 0): [(1.5, 0.1)]})
    assert Comparison(results).base_text(LOSS) == "2.000"
    base = results.base.model_copy(update={"errors": Errors(learned={TASK: {"loss": 0.04}})})
    found = Comparison(results.model_copy(update={"base": base}))
    assert found.base_text(LOSS) == "2.00 ± 0.04"
    assert found.base_text(KL) == "0"


def test_settings_are_shown_where_they_differ():
    found = make_comparison(learning_rates=(1e-4, 3e-4))
    assert found.varied_settings == ["learning_rate"]
    assert [found.settings_text(c) for c in found.configurations] == ["lr\u00a01e-4", "lr\u00a03e-4"] * 2
    assert found.fixed_settings == "fraction\u00a00.15"
    found = make_comparison(learning_rates=(1e-4,), fractions=(0.05, 0.15))
    assert [found.describe(c) for c in found.configurations] == [
        "AdamW",
        "MoFO, fraction\u00a00.05",
        "MoFO, fraction\u00a00.15",
    ]


def test_settings_that_some_runs_of_a_method_lack_are_shown():
    results = make_results(learning_rates=(1e-4,), seeds=(0, 1))
    del results.runs[-1].settings["fraction"]  # has the default, which files do not name
    found = Comparison(results)
    assert [found.settings_text(c) for c in found.configurations] == ["", "", "fraction\u00a00.15"]
    assert found.fixed_settings == "lr\u00a01e-4"


def test_reference_is_the_first_measured_method_where_the_files_is_not_measured():
    results = make_results(methods=("mofo", "mofo-random", "adamw"), learning_rates=(1e-4,))
    assert Comparison(results).reference == "adamw"
    results.runs.pop()
    assert Comparison(results).reference == "mofo"
    results.runs.clear()
    assert Comparison(results).reference is None


def test_pair_is_the_first_other_method_and_the_reference():
    methods = ("mofo-random", "mofo", "mofo-gradient", "adamw")
    assert make_comparison(methods=methods, learning_rates=(1e-4,)).pair == ("mofo-random", "adamw")
    assert make_comparison(methods=("adamw", *methods[1:3])).pair == ("mofo", "adamw")
    assert make_comparison(methods=methods[:2]).pair == ("mofo", "mofo-random")
    assert make_comparison(methods=("mofo",)).pair is None

"""The verdict says what was measured, whoever wins."""

import re

import pytest
from fake import TASK, Character, make_comparison, make_results, set_path

from mofo.report import Comparison, verdict


def test_verdict_on_one_seed_says_that_there_is_no_spread():
    sentence = verdict(make_comparison())
    assert sentence.startswith("At equal learning (held-out loss 1.")
    assert "MoFO forgot less than AdamW on" in sentence
    assert "one seed each: no spread" in sentence
    assert "±" not in sentence


def test_verdict_on_three_seeds_gives_spreads_and_percent():
    sentence = verdict(make_comparison(seeds=(0, 1, 2)))
    assert re.search(r"divergence \(0\.\d+ ± 0\.\d+ against 0\.\d+ ± 0\.\d+, \d+ % less\)", sentence)
    assert re.search(r"L2 distance: \S+ ± \S+ against \S+ ± \S+, \d+ % less\.", sentence)
    assert "3 seeds" in sentence


def test_verdict_gives_no_percent_of_changes_that_can_have_either_sign():
    sentence = verdict(make_comparison(seeds=(0, 1, 2)))
    assert sentence.count("%") == 2  # of the divergence and of the distance
    results = make_results(seeds=(0, 1, 2))
    results.runs[0].points[0].forgotten["divergence"]["kl"] = -0.01
    assert verdict(Comparison(results)).count("%") == 1


def test_verdict_says_a_loss_as_plainly_as_a_win():
    sentence = verdict(make_comparison(seeds=(0, 1, 2), character={"mofo": Character(2.0, 1.0, 1.0)}))
    assert "MoFO forgot more than AdamW on" in sentence
    assert "% more" in sentence
    assert "less" not in sentence


def test_verdict_does_not_distinguish_equal_methods():
    results = make_results(methods=("adamw",), seeds=(0, 1, 2))
    twins = [run.model_copy(update={"method": "mofo", "name": f"mofo-{run.name}"}, deep=True) for run in results.runs]
    methods = make_results(learning_rates=()).methods
    results = results.model_copy(update={"runs": results.runs + twins, "methods": methods})
    assert "MoFO and AdamW cannot be distinguished on text loss" in verdict(Comparison(results))


def test_verdict_without_overlap_refuses_to_compare():
    results = make_results(learning_rates=(1e-4,))
    for point in results.runs[0].points:
        point.learned[TASK]["loss"] += 0.6
    sentence = verdict(Comparison(results))
    assert "cannot be compared at equal learning: the lowest held-out loss of AdamW was 1.8" in sentence


def test_verdict_without_learning_refuses_to_compare():
    results = make_results()
    for run in results.runs:
        for point in run.points:
            point.learned[TASK]["loss"] = 2.5
    assert "MoFO and AdamW never got below the base's held-out loss" in verdict(Comparison(results))


def test_verdict_mentions_fronts_that_cross():
    results = make_results(learning_rates=(1e-4,), every=20)
    set_path(results.runs[0], [(1.6, 0.10), (1.4, 0.15), (1.2, 0.60)])
    set_path(results.runs[1], [(1.6, 0.20), (1.4, 0.30), (1.2, 0.40)])
    sentence = verdict(Comparison(results))
    assert "divergence (0.400 against 0.600, 33 % less)" in sentence
    assert "but the other way round on" in sentence
    assert "divergence at 1.382" in sentence  # there MoFO had 0.309 against 0.191


def test_verdict_sees_no_crossing_where_a_configuration_is_left_out():
    results = make_results(learning_rates=(1e-4, 3e-4), every=20)
    # past every higher loss at its first checkpoint
    set_path(results.runs[0], [(1.22, 0.10), (1.21, 0.11), (1.2, 0.12)])
    set_path(results.runs[1], [(1.6, 0.70), (1.4, 0.80), (1.3, 0.90)])
    set_path(results.runs[2], [(1.6, 0.20), (1.4, 0.30), (1.2, 0.40)])
    set_path(results.runs[3], [(1.6, 0.20), (1.4, 0.30), (1.2, 0.40)])
    sentence = verdict(Comparison(results))
    assert "divergence (0.400 against 0.120, 233 % more)" in sentence
    assert "the other way round" not in sentence


@pytest.mark.parametrize("method", ["adamw", "mofo"])
def test_verdict_on_one_method_compares_nothing(method):
    assert "is the only method, so nothing is compared" in verdict(make_comparison(methods=(method,)))


def test_verdict_on_one_method_that_never_learned():
    results = make_results(methods=("adamw",), learning_rates=(1e-4,))
    set_path(results.runs[0], [(None, 0.1), (2.5, 0.2), (2.2, 0.3)])
    assert verdict(Comparison(results)) == "AdamW is the only method, and it never got below the base's held-out loss."


def test_verdict_on_unfinished_results_says_so():
    results = make_results().model_copy(update={"complete": False})
    assert verdict(Comparison(results)).startswith("Unfinished; so far: ")
    results.runs.clear()
    assert verdict(Comparison(results)) == "Unfinished; so far: no run has been measured yet."


def test_verdict_is_about_the_first_other_method_and_the_reference():
    comparison = make_comparison(methods=("mofo-random", "mofo", "adamw"))
    assert re.search(r"MoFO \(random\) forgot \w+ than AdamW", verdict(comparison))


def test_verdict_with_a_run_that_diverged_rests_on_the_others():
    results = make_results(learning_rates=(1e-4, 3e-4))
    for run in results.runs:
        if run.settings["learning_rate"] == 3e-4:
            set_path(run, [(None, 9.0)] * 3)
    assert "1 of 2 and 1 of 2" in verdict(Comparison(results))

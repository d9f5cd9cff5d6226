"""The verdict says what was measured, whoever wins."""

import copy
import re

import pytest
from fake import make_results

from mofo.report import verdict
from mofo.report.conclusion import main_pair


def test_one_seed_says_that_there_is_no_spread():
    sentence = verdict(make_results())
    assert sentence.startswith("At equal learning (held-out loss 1.")
    assert "MoFO forgot less than AdamW on" in sentence
    assert "one seed: no spread" in sentence
    assert "±" not in sentence


def test_three_seeds_give_spreads_and_percent():
    sentence = verdict(make_results(seeds=(0, 1, 2)))
    assert re.search(r"divergence \(0\.\d+ ± 0\.\d+ against 0\.\d+ ± 0\.\d+, \d+ % less\)", sentence)
    assert "3 seeds" in sentence


def test_a_loss_is_said_as_plainly_as_a_win():
    sentence = verdict(make_results(seeds=(0, 1, 2), character={"mofo": (2.0, 1.0, 1.0)}))
    assert "MoFO forgot more than AdamW on" in sentence
    assert "% more" in sentence
    assert "less" not in sentence


def test_equal_methods_cannot_be_told_apart():
    results = make_results(methods=("adamw",), seeds=(0, 1, 2))
    for run in copy.deepcopy(results["runs"]):
        results["runs"].append(run | {"method": "mofo", "name": "mofo-" + run["name"]})
    assert "MoFO and AdamW cannot be told apart on text loss" in verdict(results)


def test_without_overlap_it_refuses_to_compare():
    results = make_results(learning_rates=(1e-4,))
    for point in results["runs"][0]["points"]:
        point["learned"]["loss"] += 0.6
    assert "cannot be compared at equal learning: the lowest held-out loss of AdamW was 1.8" in verdict(results)


def test_without_learning_it_refuses_to_compare():
    results = make_results()
    for run in results["runs"]:
        for point in run["points"]:
            point["learned"]["loss"] = 2.5
    assert "MoFO and AdamW never got below the base's held-out loss" in verdict(results)


def test_fronts_that_cross_are_mentioned():
    results = make_results(learning_rates=(1e-4,), every=20)
    paths = {"adamw": [(1.6, 0.10), (1.4, 0.15), (1.2, 0.60)], "mofo": [(1.6, 0.20), (1.4, 0.30), (1.2, 0.40)]}
    for run in results["runs"]:
        for point, (loss, kl) in zip(run["points"], paths[run["method"]], strict=True):
            point["learned"]["loss"] = loss
            point["forgotten"]["divergence"]["kl"] = kl
    sentence = verdict(results)
    assert "divergence (0.400 against 0.600, 33 % less)" in sentence
    assert "but the other way round on" in sentence
    assert "divergence at 1.382" in sentence  # there MoFO had 0.309 against 0.191


def test_no_crossing_where_a_setting_is_left_out():
    results = make_results(learning_rates=(1e-4, 3e-4), every=20)
    paths = {
        ("adamw", 1e-4): [(1.22, 0.10), (1.21, 0.11), (1.2, 0.12)],  # past every higher loss at its first checkpoint
        ("adamw", 3e-4): [(1.6, 0.70), (1.4, 0.80), (1.3, 0.90)],
        ("mofo", 1e-4): [(1.6, 0.20), (1.4, 0.30), (1.2, 0.40)],
        ("mofo", 3e-4): [(1.6, 0.20), (1.4, 0.30), (1.2, 0.40)],
    }
    for run in results["runs"]:
        for point, (loss, kl) in zip(
            run["points"], paths[run["method"], run["settings"]["learning_rate"]], strict=True
        ):
            point["learned"]["loss"] = loss
            point["forgotten"]["divergence"]["kl"] = kl
    sentence = verdict(results)
    assert "divergence (0.400 against 0.120, 233 % more)" in sentence
    assert "the other way round" not in sentence


@pytest.mark.parametrize("method", ["adamw", "mofo"])
def test_one_method_alone_is_not_compared(method):
    assert "alone was run, so nothing is compared" in verdict(make_results(methods=(method,)))


def test_unfinished_results_say_so():
    results = make_results()
    results["complete"] = False
    assert verdict(results).startswith("Unfinished; so far: ")
    results["runs"] = []
    assert verdict(results) == "Unfinished; so far: no run has been measured yet."


def test_mofo_is_held_against_adamw_among_many():
    methods = ("mofo-random", "mofo", "mofo-gradient", "adamw")
    assert main_pair(make_results(methods=methods, learning_rates=(1e-4,))) == ("mofo", "adamw")
    assert main_pair(make_results(methods=methods[:1] + methods[2:3], learning_rates=(1e-4,))) == (
        "mofo-gradient",
        "mofo-random",
    )

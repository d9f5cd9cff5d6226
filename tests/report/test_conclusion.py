"""The verdict says what was measured, whoever wins."""

import re

import pytest
from fake import BASE, TASK, Character, change_runs, make_comparison, make_results, path_results, set_path

from mofo.report import Comparison, verdict
from mofo.report.ranking import rank
from mofo.results import Errors


def test_verdict_on_one_seed_says_that_there_is_no_spread():
    sentence = verdict(make_comparison())
    assert sentence.startswith("At equal learning (held-out loss 1.")
    assert "MoFO forgot less than AdamW on" in sentence
    assert "One seed each: no spread, so these differences may be chance" in sentence
    assert "±" not in sentence


def test_verdict_on_three_seeds_gives_spreads_and_percent():
    sentence = verdict(make_comparison(seeds=(0, 1, 2)))
    assert re.search(r"divergence \(0\.\d+ ± 0\.\d+ against 0\.\d+ ± 0\.\d+, \d+ % less\)", sentence)
    assert "3 seeds" in sentence


def test_verdict_gives_no_percent_of_changes_that_can_have_either_sign():
    sentence = verdict(make_comparison(seeds=(0, 1, 2)))
    assert sentence.count("%") == 1  # of the divergence
    results = make_results(seeds=(0, 1, 2))
    results.runs[0].points[0].forgotten["divergence"]["kl"] = -0.01
    assert "%" not in verdict(Comparison(results))


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
    assert "MoFO cannot be told from AdamW on text loss" in verdict(Comparison(results))


def test_verdict_without_overlap_refuses_to_compare():
    results = make_results(learning_rates=(1e-4,))
    for point in results.runs[0].points:
        point.learned[TASK]["loss"] += 0.6
    for point in results.runs[1].points:
        point.forgotten.update(
            text={"loss": 5.0}, divergence={"kl": 3.0}, choice={"accuracy": 0.1, "log_probability": -5.0}
        )
    sentence = verdict(Comparison(results))
    assert "cannot be compared at equal learning: the lowest held-out loss of AdamW was 1.8" in sentence
    assert "MoFO was past it before its first checkpoint" in sentence


def test_verdict_compares_a_method_that_learned_more_where_it_forgot_less():
    results = path_results({("adamw", 1e-4, 0): [(1.8, 0.3)], ("mofo", 1e-4, 0): [(1.5, 0.2), (1.4, 0.9)]})
    sentence = verdict(Comparison(results))
    assert "At equal learning (held-out loss 1.800), MoFO forgot less than AdamW on divergence (0.200" in sentence
    assert "MoFO at lr\u00a01e-4 had learned more at the first checkpoint already, and is taken as it was" in sentence
    assert "had learned more" not in verdict(make_comparison())


def test_verdict_says_which_probe_cannot_be_compared():
    results = make_results(learning_rates=(1e-4,))
    for point in results.runs[0].points:
        point.learned[TASK]["loss"] += 0.6
    for point in results.runs[1].points:
        point.forgotten["divergence"]["kl"] = 3.0
    sentence = verdict(Comparison(results))
    assert "MoFO forgot less than AdamW on text loss (" in sentence
    assert " and cannot be compared with it on divergence. " in sentence


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


def test_verdict_sees_no_crossing_where_the_better_configuration_was_past_the_loss_early():
    results = make_results(learning_rates=(1e-4, 3e-4), every=20)
    # past every higher loss at its first checkpoint
    set_path(results.runs[0], [(1.22, 0.10), (1.21, 0.11), (1.2, 0.12)])
    set_path(results.runs[1], [(1.6, 0.70), (1.4, 0.80), (1.3, 0.90)])
    set_path(results.runs[2], [(1.6, 0.20), (1.4, 0.30), (1.2, 0.40)])
    set_path(results.runs[3], [(1.6, 0.20), (1.4, 0.30), (1.2, 0.40)])
    sentence = verdict(Comparison(results))
    assert "divergence (0.400 against 0.120, 233 % more)" in sentence
    assert "divergence at" not in sentence


@pytest.mark.parametrize("method", ["adamw", "mofo"])
def test_verdict_on_one_method_compares_nothing(method):
    assert "is the only method, so nothing is compared" in verdict(make_comparison(methods=(method,)))


def test_verdict_on_one_method_that_never_learned():
    results = make_results(methods=("adamw",), learning_rates=(1e-4,))
    set_path(results.runs[0], [(2.3, 0.1), (2.5, 0.2), (2.2, 0.3)])
    never = "AdamW is the only method, and AdamW never got below the base's held-out loss."
    assert verdict(Comparison(results)) == never
    set_path(results.runs[0], [(None, 0.1), (2.5, 0.2), (2.2, 0.3)])
    assert verdict(Comparison(results)) == (
        "AdamW is the only method, and every configuration of AdamW diverged. "
        "AdamW at lr\u00a01e-4 diverged at step 20."
    )


def test_verdict_on_unfinished_results_says_so():
    results = make_results().model_copy(update={"complete": False, "missing": ["mofo-s1"]})
    assert verdict(Comparison(results)).startswith("Unfinished, 1 run of the plan is missing; so far: ")
    results = results.model_copy(update={"missing": [], "runs": []})  # as versions before wrote it
    assert verdict(Comparison(results)) == (
        "Unfinished, runs of the plan are missing; so far: no run has been measured yet."
    )


THREE = ("mofo-random", "mofo", "adamw")


def test_verdict_on_three_methods_holds_each_against_the_reference():
    sentence = verdict(make_comparison(methods=THREE, seeds=(0, 1, 2), noise=0.01))
    assert re.search(r"on text loss MoFO and MoFO \(random\) forgot less than AdamW \(\S+ ± \S+\)\.", sentence)
    assert re.search(r"Least: MoFO \(\S+ ± \S+\)\.", sentence)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_verdict_on_three_methods_never_ranks_with_fewer_than_three_seeds(seeds):
    sentence = verdict(make_comparison(methods=THREE, seeds=seeds))
    assert "forgot" not in sentence.replace("forgets", "")
    assert "too few to tell which of these 3 methods forgets less" in sentence


def lucky(*methods):
    """Return a comparison on three seeds, but one of these methods, which forget next to nothing."""
    results = make_results(methods=THREE, seeds=(0, 1, 2), learning_rates=(1e-4,), noise=0.01)
    runs = [run for run in results.runs if run.method not in methods or run.seed == 0]
    for point in (point for run in runs if run.method in methods for point in run.points[1:]):
        point.forgotten["text"]["loss"] = BASE["text"]["loss"] + 1e-3
    return Comparison(results.model_copy(update={"runs": runs}))


def test_verdict_on_three_methods_names_apart_what_has_too_few_seeds():
    found = lucky("mofo-random")
    assert re.search(
        r"on text loss MoFO forgot less than AdamW \(\S+ ± \S+\)\. Least: MoFO \(\S+ ± \S+\)\. "
        r"Too few seeds to tell: MoFO \(random\)\.",
        verdict(found),
    )
    assert rank(found).methods == ["mofo", "adamw", "mofo-random"]


def test_methods_with_three_seeds_are_compared_where_they_learned_most_whatever_one_seed_did():
    runs = {
        **{("adamw", 1e-4, seed): [(1.5, 0.3), (1.2, 0.5)] for seed in (0, 1, 2)},
        **{("mofo", 1e-4, seed): [(1.5, 0.1), (1.2, 0.2 + 0.01 * seed)] for seed in (0, 1, 2)},
        ("mofo", 2e-4, 0): [(1.5, 0.1), (1.1, 0.2)],  # reached by one seed alone
        ("mofo-random", 1e-4, 0): [(1.6, 0.0), (1.5, 0.0)],
    }
    found = Comparison(path_results(runs))
    assert rank(found).target == 1.2
    assert rank(found).methods == ["mofo", "adamw"]
    assert verdict(found).endswith("Not compared: MoFO (random) learned too little, 1.500 at best.")


def test_methods_are_compared_although_the_three_seeds_of_one_diverged():
    runs = {
        **{("adamw", 1e-4, seed): [(1.5, 0.3), (1.2, 0.5)] for seed in (0, 1, 2)},
        **{("mofo", 1.0, seed): [(None, 0.1), (None, 0.1)] for seed in (0, 1, 2)},
        ("mofo", 1e-4, 0): [(1.5, 0.1), (1.3, 0.2)],
    }
    assert rank(Comparison(path_results(runs))).target == 1.3
    assert "At equal learning (held-out loss 1.300)" in verdict(Comparison(path_results(runs)))


def test_verdict_on_one_method_with_seeds_among_three_compares_nothing():
    sentence = verdict(lucky("mofo-random", "mofo"))
    assert re.search(r"AdamW \(\S+ ± \S+\) alone has seeds enough to be compared on text loss\.", sentence)
    assert "forgot" not in sentence
    assert re.search(r"Too few seeds to tell: (MoFO and MoFO \(random\)|MoFO \(random\) and MoFO)\.", sentence)


def test_verdict_on_three_methods_says_which_ones_are_not_compared():
    results = make_results(methods=THREE, seeds=(0, 1, 2), learning_rates=(1e-4,))
    for run in results.runs:
        if run.method == "mofo-random":
            set_path(run, [(2.0, 0.1)] * 3)
        if run.method == "mofo":
            set_path(run, [(1.5, 0.1), (None, 0.1), (None, 0.1)])
    sentence = verdict(Comparison(results))
    assert "MoFO at lr\u00a01e-4 and fraction\u00a00.15 diverged at step 40." in sentence
    assert "No two methods learned enough to be compared" in sentence


def pair(ours, theirs, noise=0.0, base=1.0):
    """Results of two methods whose text loss ends that much above the base's, with the same standard error."""
    results = path_results({("adamw", 1e-4, 0): [(1.5, theirs)], ("mofo", 1e-4, 0): [(1.5, ours)]})
    point = results.base.model_copy(update={"forgotten": {"divergence": {"kl": base}}})

    def change(run):
        (end,) = run.points
        errors = Errors(forgotten={"divergence": {"kl": noise}})
        kl = {"divergence": {"kl": base + end.forgotten["divergence"]["kl"]}}
        return run.model_copy(
            update={"points": [end.model_copy(update={"forgotten": kl, "change_errors": errors})]}, deep=True
        )

    return Comparison(change_runs(results.model_copy(update={"base": point}), change))


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        (0.1, 0.2, "MoFO forgot less than AdamW on divergence (0.100 against 0.200)"),
        (0.2, 0.1, "MoFO forgot more than AdamW on divergence (0.200 against 0.100)"),
        (-0.2, -0.1, "MoFO gained more than AdamW on divergence (0.200 gained against 0.100 gained)"),
        (-0.1, -0.2, "MoFO gained less than AdamW on divergence (0.100 gained against 0.200 gained)"),
        (-0.1, 0.2, "MoFO forgot less than AdamW on divergence (0.100 gained against 0.200)"),
    ],
)
def test_verdict_says_forgot_only_of_what_got_worse_than_the_base(ours, theirs, words):
    assert words in verdict(pair(ours, theirs))


def test_verdict_says_what_lies_within_the_probes_standard_error():
    assert "MoFO cannot be told from AdamW on divergence." in verdict(pair(0.1, 0.2, noise=0.04))
    assert "forgot less" in verdict(pair(0.1, 0.2, noise=0.02))


def test_verdict_says_that_a_lower_rate_of_the_reference_was_not_tried():
    results = make_results(learning_rates=(1e-4,))
    rate = results.settings["learning_rate"].model_copy(update={"is_rate": True})
    results = results.model_copy(update={"settings": results.settings | {"learning_rate": rate}})
    assert verdict(Comparison(results)).endswith("A lower lr of AdamW was not tried: it might forget less.")
    assert "not tried" not in verdict(make_comparison(learning_rates=(1e-4,)))


def test_verdict_on_one_method_says_forgot_and_gained():
    results = make_results(methods=("mofo",), learning_rates=(1e-4,))
    for point in results.runs[0].points:
        point.forgotten["text"]["loss"] = 3.5
    sentence = verdict(Comparison(results))
    assert re.search(r"gained text loss \(0\.221\)", sentence)
    assert re.search(r"forgot divergence", sentence)


def test_verdict_with_a_run_that_diverged_rests_on_the_others():
    results = make_results(learning_rates=(1e-4, 3e-4))
    for run in results.runs:
        if run.settings["learning_rate"] == 3e-4:
            set_path(run, [(None, 9.0)] * 3)
    sentence = verdict(Comparison(results))
    assert "1 of 2 and 1 of 2" in sentence
    assert "AdamW at lr\u00a03e-4 diverged at step 20; MoFO at lr\u00a03e-4 and fraction\u00a00.15 diverged" in sentence


def test_verdict_never_compares_the_warm_up_of_a_run_that_diverged():
    results = make_results(learning_rates=(1e-4,))
    set_path(results.runs[0], [(1.6, 0.1), (1.4, 0.2), (None, 0.3)])
    sentence = verdict(Comparison(results))
    assert "forgot" not in sentence
    assert "AdamW at lr\u00a01e-4 diverged at step 60." in sentence


def test_verdict_on_one_measured_method_of_several_says_so():
    results = make_results(learning_rates=(1e-4,))
    results.runs[0].points.clear()
    assert verdict(Comparison(results)).startswith(
        "MoFO is the only method that was measured so far, so nothing is compared."
    )

"""Runs that their method ended before the plan did, in reports."""

from mofo.report import Comparison
from mofo.results_page import example


def test_run_that_its_method_ended_counts_as_ended():
    results = example()
    (whole,) = results.runs
    early = whole.model_copy(
        update={"name": "early", "seed": 1, "points": [whole.points[-1].model_copy(update={"step": 7})]}
    )
    for ended_at in (None, early.points[-1].step):
        comparison = Comparison(
            results.model_copy(update={"runs": [whole, early.model_copy(update={"ended_at": ended_at})]})
        )
        ends = [point for configuration in comparison.configurations for point in comparison.ends(configuration)]
        assert whole.points[-1] in ends
        assert (early.points[-1] in ends) == (ended_at is not None)

"""The table for the terminal."""

import re

import pytest
from fake import make_comparison, make_results
from rich.console import Console

from mofo.report import Comparison, summary_table


def rendered(comparison, width=200):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(comparison, width))
    return console.export_text()


def test_summary_has_a_row_per_configuration_and_pools_seeds():
    text = rendered(make_comparison(seeds=(0, 1, 2)))
    assert text.count("AdamW") == 4
    assert text.count("MoFO") == 4
    assert "±" in text
    assert "3 seeds each" in text
    assert "5e-5" in text


def test_summary_of_one_seed_has_no_spread():
    text = rendered(make_comparison())
    assert "±" not in text
    assert "1 seed each" in text


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
@pytest.mark.parametrize("width", [80, 60, 40])
def test_summary_of_any_width_breaks_no_number_and_names_what_is_left_out(seeds, width):
    comparison = make_comparison(learning_rates=(1e-4, 3e-4), seeds=seeds)
    wide, narrow = (re.findall(r"[−±]?\d\S*\d", rendered(comparison, w).split("each.")[0]) for w in (200, width))
    assert narrow
    assert not set(narrow) - set(wide)
    assert max(map(len, rendered(comparison, width).splitlines())) <= width
    caption = " ".join(rendered(comparison, width).split()).split("No room for")[1]
    assert caption.endswith("optimizer s/step: see the page, or --json.")


def test_summary_of_eighty_columns_has_every_probe_of_the_demo():
    text = " ".join(rendered(make_comparison(learning_rates=(3e-4,)), 80).split()).split("No room for")[1]
    assert not re.search("text|divergence|choice|L2", text)


def test_summary_shows_differing_numbers_of_seeds_in_a_column():
    results = make_results(learning_rates=(1e-4, 3e-4), seeds=(0, 1))
    results.runs.pop()
    text = rendered(Comparison(results))
    assert re.search(r"method +lr +seeds", text)
    assert "seeds each" not in text


def test_summary_shows_markup_in_a_probe_name_as_text():
    assert "[red]mine" in rendered(make_comparison(probes={"[red]mine": {"loss": 2.0}}))


def test_summary_without_runs_is_empty():
    results = make_results()
    results.runs.clear()
    assert rendered(Comparison(results)).split()[:4] == ["After", "step", "0", "method"]

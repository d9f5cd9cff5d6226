"""What docs/measuring.md says of the cost of probes, and of how small a change they can see."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from mofo.measure.mean import Mean
from mofo.measure.pairing import paired

ROOT = Path(__file__).parents[2]
RESULT = json.loads((ROOT / "benchmarks" / "results" / "probe_cost.json").read_text())
PAGE = (ROOT / "docs" / "measuring.md").read_text()


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
        return runpy.run_path(str(ROOT / "benchmarks" / "probe_cost.py"))


def rows_of(first):
    """The cells of the rows of the page's tables whose first cell is one of some texts."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:1] == "|"]
    return [line for line in lines if line[0] in first]


def number(text):
    return float(re.sub(r"[^\d.]", "", text))


def test_smallest_loss_is_the_first_that_the_rules_call_worse(script):
    for questions, flipped in ((100, 0.1), (400, 0.05)):
        loss = script["smallest_loss"](questions, flipped)
        lost = round((questions * flipped + loss * questions) / 2)
        won = round(questions * flipped) - lost
        half = questions // 2
        verdicts = []
        for fewer in (0, 1):
            before = [1.0] * half + [0.0] * half
            after = [0.0] * (lost - fewer) + [1.0] * (half - lost + fewer + won + fewer)
            after += [0.0] * (questions - len(after))
            found = paired(Mean(before), Mean(after))
            assert (found.lost, found.won) == (lost - fewer, won + fewer)
            verdicts.append(found.is_significant)
        assert verdicts == [True, False]
    assert script["smallest_loss"](100, 0.05) is None, "five flips are never beyond chance"


def test_losses_that_are_committed_are_those_of_the_script_and_of_the_page(script):
    for row in RESULT["smallest_losses"][:3]:
        for flipped in (0.05, 0.1, 0.2):
            loss = script["smallest_loss"](row["questions"], flipped)
            assert row[f"paired, f = {flipped}"] == (None if loss is None else round(100 * loss, 2))
    names = ["100", "400", "1500", "14 042 (MMLU)"]
    for cells, row in zip(rows_of(names), RESULT["smallest_losses"], strict=True):
        said = [None if cell == "none" else float(cell) for cell in cells[1:]]
        known = [value for name, value in row.items() if name != "questions"]
        assert said == [None if value is None else pytest.approx(value, abs=0.051) for value in known]


def test_costs_and_errors_of_the_page_are_the_committed_ones():
    costs = {f"`{row['probe']}`": row for row in RESULT["costs"]}
    rows = [cells for cells in rows_of(costs) if len(cells) == 5 and "token" not in cells[1] and cells[2] != "units"]
    counted = [cells for cells in rows if re.fullmatch(r"[\d ]+", cells[2])]
    assert {cells[0] for cells in counted} == costs.keys()
    for name, units, tokens, a_unit, _ in counted:
        row = costs[name]
        assert (number(units), number(tokens)) == (row["units"], row["to measure"]["tokens"])
        assert number(a_unit) == round(row["to measure"]["tokens"] / row["units"])
    errors = {row["number"]: row["standard error of the change"] for row in RESULT["change_errors"]}
    said = {
        (cells[0], cells[1].partition(" ")[0]): cells[3:]
        for cells in rows_of(["`divergence`", "`text`", "`choice`", "`choice:arc_easy.jsonl`"])
        if cells[1].startswith(("KL", "loss", "log-probability", "accuracy"))
    }
    for key, name in (
        (("`divergence`", "KL"), "divergence kl"),
        (("`text`", "loss"), "text loss"),
        (("`choice`", "log-probability"), "choice log_probability"),
        (("`choice`", "accuracy"), "choice accuracy"),
        (("`choice:arc_easy.jsonl`", "log-probability"), "arc_easy log_probability"),
        (("`choice:arc_easy.jsonl`", "accuracy"), "arc_easy accuracy"),
    ):
        error, seen = (number(cell) / (100 if "points" in cell else 1) for cell in said[key])
        assert error == pytest.approx(errors[name], rel=0.04)
        assert seen == pytest.approx(2 * errors[name], rel=0.04)

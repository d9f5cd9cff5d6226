"""The tables of the evidence in the documentation: every number is one that the committed results give."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "experiments" / "evidence"
COMPARISONS = [ROOT / "experiments" / "methods" / "results", EVIDENCE / "code" / "results"]
MEDICINE = EVIDENCE / "medicine" / "results"
MEASURED = re.compile(r"−?\d+\.\d+ ± \d+\.\d+")
SHARE = re.compile(r"\d+ %, \d\.\d{3}")


def printed(script, *arguments):
    """What a script of the evidence prints."""
    command = [sys.executable, EVIDENCE / script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def cells(file, pattern):
    """What matches in the tables of a page."""
    lines = [line for line in (ROOT / file).read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return {match.group(0) for line in lines for match in pattern.finditer(line)}


@pytest.fixture(scope="module")
def tables():
    """All numbers with a spread that the scripts give, LoRA included and left out, as the pages say."""
    full = ["adamw", "mofo", "adamw+self-distill-mixed", "mofo+self-distill-mixed"]
    text = printed("table.py", *COMPARISONS, MEDICINE) + printed("table.py", MEDICINE, "--methods", ",".join(full))
    return set(MEASURED.findall(text))


@pytest.mark.parametrize(
    "page", ["README.md", "docs/guide.md", "experiments/evidence/README.md", "experiments/methods/README.md"]
)
def test_numbers_with_a_spread_come_from_committed_results(page, tables):
    found = cells(page, MEASURED)
    assert found, f"{page} has no table with a spread any more"
    assert found <= tables


def test_shares_that_a_rate_without_a_sweep_learns_come_from_committed_results():
    found = cells("docs/guide.md", SHARE)
    assert found
    assert found <= set(SHARE.findall(printed("rates.py", *COMPARISONS, MEDICINE)))

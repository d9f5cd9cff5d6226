"""The tables of the evidence in the documentation: every number is one that the committed results give."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mofo.report import Comparison, load_results, to_markdown

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
COMPARISONS = [EXPERIMENTS / "methods" / "results", EXPERIMENTS / "evidence" / "code" / "results"]
MEDICINE = EXPERIMENTS / "evidence" / "medicine" / "results"
BESIDE = {COMPARISONS[0]: ["cheap", "compute"], COMPARISONS[1]: ["cheap-code"], MEDICINE: ["cheap-medicine"]}
"""What the text has beside each domain: experiments in folders of these names."""
LION = {COMPARISONS[0]: "lion", COMPARISONS[1]: "lion-code", MEDICINE: "lion-medicine"}
"""The folder with Lion beside each domain, which is in its table."""
BLEND = {COMPARISONS[0]: "blend", COMPARISONS[1]: "blend-code", MEDICINE: "blend-medicine"}
"""The folder with ends that were moved back, beside each domain."""
WEIGHT = {COMPARISONS[0]: "weight", COMPARISONS[1]: "weight-code", MEDICINE: "weight-medicine"}
"""The folder with a heavier term beside each domain."""
LONG = EXPERIMENTS / "evidence" / "long" / "results"
"""Three times as many steps; its table is of the ends."""
MEASURED = re.compile(r"−?\d+\.\d+ ± \d+\.\d+")
BESIDE_ADAMW = re.compile(r"−?\d+\.\d+ \(−?\d+\.\d+\)")
SHARE = re.compile(r"\d+ %, \d\.\d{3}")


def printed(script, *arguments):
    """What a script of the experiments prints."""
    command = [sys.executable, EXPERIMENTS / script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def cells(file, pattern):
    """What matches in the tables of a page."""
    lines = [line for line in (ROOT / file).read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return {match.group(0) for line in lines for match in pattern.finditer(line)}


def table(domain, names, methods):
    """The table of a domain beside experiments with the same rows, in folders of these names; `methods` or all."""
    folders = [EXPERIMENTS / "evidence" / name / "results" for name in names]
    return printed("evidence/table.py", domain, "--beside", *folders, "--methods", ",".join(methods))


def with_lion(domain, *methods):
    """The table of a domain with Lion in it, of all methods, or of these and Lion's."""
    name = LION[domain]
    lions = [f"lion-{name}", f"lion+self-distill-mixed-{name}"]
    return table(domain, [name], [*methods, *lions] if methods else [])


def with_variants(domain, names):
    """AdamW of a domain, with and without self-distillation, beside variants of it."""
    added = [f"adamw-{name}" if name == "compute" else f"adamw+self-distill-mixed-{name}" for name in names]
    return table(domain, names, ["adamw", "adamw+self-distill-mixed", *added])


def with_blend(domain):
    """AdamW of a domain, with and without self-distillation, beside ends of the latter that were moved back."""
    name = BLEND[domain]
    ends = [f"adamw+self-distill-mixed+blend-{keep}-{name}" for keep in (0.9, 0.8, 0.7)]
    return table(domain, [name], ["adamw", "adamw+self-distill-mixed", *ends])


def with_weight(domain):
    """AdamW of a domain, with and without self-distillation, beside the latter with a heavier term."""
    name = WEIGHT[domain]
    return table(domain, [name], ["adamw", "adamw+self-distill-mixed", f"adamw+self-distill-mixed-{name}"])


@pytest.fixture(scope="module")
def tables():
    """All numbers with a spread that the scripts give, LoRA included and left out, as the pages say."""
    full = ["adamw", "mofo", "adamw+self-distill-mixed", "mofo+self-distill-mixed"]
    of_all = [with_lion(domain) for domain in LION]
    without_lora = with_lion(MEDICINE, *full)
    beside = [with_variants(domain, names) for domain, names in BESIDE.items()]
    moved_back = [with_blend(domain) for domain in BLEND]
    heavier = [with_weight(domain) for domain in WEIGHT]
    longer = [printed("evidence/table.py", LONG), to_markdown(Comparison(load_results(LONG)))]
    return set(MEASURED.findall("".join([*of_all, without_lora, *beside, *moved_back, *heavier, *longer])))


@pytest.mark.parametrize(
    "page", ["README.md", "docs/guide.md", "experiments/evidence/README.md", "experiments/methods/README.md"]
)
def test_numbers_with_a_spread_come_from_committed_results(page, tables):
    found = cells(page, MEASURED)
    assert found, f"{page} has no table with a spread any more"
    assert found <= tables


@pytest.mark.parametrize("comparison", [COMPARISONS[0], EXPERIMENTS / "evidence" / "candidates" / "results"])
def test_numbers_of_one_seed_come_from_committed_results(comparison):
    found = cells(comparison.parent / "README.md", BESIDE_ADAMW)
    assert len(found) > 40
    assert found <= set(BESIDE_ADAMW.findall(printed("evidence/one_seed.py", comparison)))


def test_shares_that_a_rate_without_a_sweep_learns_come_from_committed_results():
    found = cells("docs/guide.md", SHARE)
    assert found
    assert found <= set(SHARE.findall(printed("evidence/rates.py", *COMPARISONS, MEDICINE)))


@pytest.fixture(scope="module")
def tasks():
    """The lines that the script of the sequence of tasks prints."""
    return printed("continual/table.py", EXPERIMENTS / "continual" / "results").splitlines()


def test_table_of_tasks_in_sequence_is_what_its_script_prints(tasks):
    page = (EXPERIMENTS / "continual" / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in page if line.startswith("|")][2:] == tasks[2:]


def test_table_of_harness_tasks_is_what_its_script_prints():
    page = (EXPERIMENTS / "harness" / "README.md").read_text(encoding="utf-8").splitlines()
    script = printed("harness/table.py", EXPERIMENTS / "harness" / "results").splitlines()
    assert [line for line in page if line.startswith("|")][2:] == script[2:]


def test_lines_of_tasks_in_sequence_in_the_readme_come_from_committed_results(tasks):
    def row(line):
        return [cell.strip() for cell in line.strip("|").split("|")]

    whole = {row(line)[0]: row(line) for line in reversed(tasks[2:])}  # of a method with two rates the first
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = [row(line) for line in page[page.index("| | score, % | BWT") :].split("\n\n")[0].splitlines()[2:]]
    assert {cells[0] for cells in shown} == whole.keys()
    assert all(set(cells) <= set(whole[cells[0]]) for cells in shown)

"""`mofo report`."""

import json

import pytest

from mofo import cli
from mofo.results import Results, write_results
from mofo.results_page import example


@pytest.fixture
def folder(tmp_path):
    write_results(example(), tmp_path)
    return tmp_path


def test_report_is_drawn_and_summarised(folder, capsys):
    assert cli.main(["report", str(folder)]) == 0
    assert (folder / "report.html").exists()
    printed = capsys.readouterr().out
    assert "MoFO" in printed
    assert printed.rstrip().endswith(f"Report: {folder / 'report.html'}")


def test_json_of_one_folder_is_its_results(folder, capsys):
    assert cli.main(["report", str(folder), "--json"]) == 0
    assert Results.model_validate_json(capsys.readouterr().out) == example()


def test_json_of_several_folders_is_a_list(folder, capsys):
    assert cli.main(["report", "--json", str(folder), str(folder)]) == 0
    assert [results["model"] for results in json.loads(capsys.readouterr().out)] == ["smollm2-135m"] * 2


def test_report_begins_with_the_answer(folder, capsys):
    cli.main(["report", str(folder)])
    heads = [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert heads[:3] == ["Result", "Take", "To be surer"]


@pytest.mark.parametrize("runs", [0, 1])
def test_report_of_an_interrupted_comparison_says_what_is_missing_and_how_to_go_on(tmp_path, capsys, runs):
    found = example()
    more = {"complete": False, "missing": ["mofo-s1", "adamw-s0"], "runs": found.runs[:runs]}
    write_results(found.model_copy(update=more), tmp_path)
    assert cli.main(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Result: Unfinished, 2 runs of the plan are missing; so far: ")
    assert "To be surer: First the rest of the plan: mofo-s1 and adamw-s0.\n  Resume:\n  mofo compare" in printed
    assert ("method" in printed.split("mofo compare")[1]) == (runs == 1)
    assert ("Take: Nothing yet.\n" in printed) == (runs == 0)


def test_report_before_the_base_was_measured_is_refused(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "give the output folder of a `mofo compare` that has measured its base" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "first"), [("--csv", "method,learning_rate,fraction"), ("--markdown", "| method | ")])
def test_report_as_a_table_prints_nothing_else(folder, capsys, flag, first):
    assert cli.main(["report", str(folder), flag]) == 0
    assert capsys.readouterr().out.startswith(first)


def test_report_has_one_format_at_a_time(folder):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["report", str(folder), "--csv", "--json"])

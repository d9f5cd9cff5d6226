"""`mofo report`."""

import json

import pytest

from mofo import cli
from mofo.results import Results, example, write_results


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

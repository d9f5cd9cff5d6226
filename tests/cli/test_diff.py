"""`mofo diff`, `mofo apply` and `mofo undo`."""

import json

import pytest

from mofo import cli
from reference.folders import contents, moved, saved


@pytest.fixture
def tuned(tiny_model, tmp_path):
    return saved(moved(tiny_model), tmp_path / "tuned", tiny_model)


def test_commands_lead_forward_and_backward(capsys, monkeypatch, tiny_model, tuned, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["diff", tiny_model, tuned, "change.safetensors"]) == 0
    assert "of its entries moved.\nIt is exact" in capsys.readouterr().out
    assert cli.main(["apply", tiny_model, "change.safetensors", "--output", "forward"]) == 0
    assert "the tuned model to the bit" in capsys.readouterr().out
    assert contents("forward") == contents(tuned)
    assert cli.main(["undo", "forward", "change.safetensors", "--output", "backward"]) == 0
    assert "the base to the bit" in capsys.readouterr().out
    assert contents("backward") == contents(tiny_model)
    assert cli.main(["apply", tiny_model, "change.safetensors", "--output", "forward", "--scale", "0.8"]) == 2
    assert "forward exists" in capsys.readouterr().err
    argv = ["apply", tiny_model, "change.safetensors", "--output", "forward", "--scale", "0.8", "--overwrite"]
    assert cli.main(argv) == 0
    assert capsys.readouterr().out == "Wrote forward: 0.8 of the change.\n"


def test_commands_print_json(capsys, monkeypatch, tiny_model, tuned, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["diff", tiny_model, tuned, "change.safetensors", "--bits", "8", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["lossy"]["relative_error"] > 0
    assert cli.main(["apply", tiny_model, "change.safetensors", "--output", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sha256"] == summary["tuned_sha256"]
    assert cli.main(["undo", "out", "change.safetensors", "--output", "back"]) == 2
    assert "does not lead back: keep the base" in capsys.readouterr().err


@pytest.mark.parametrize("scale", ["nan", "inf", "much"])
def test_scale_that_is_no_number_is_refused(capsys, scale):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["apply", "base", "change.safetensors", "--output", "out", "--scale", scale])
    assert f"{scale} is not a finite number, such as 0.8" in capsys.readouterr().err

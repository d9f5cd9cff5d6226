"""`mofo env`."""

import json
import subprocess
import sys

import torch

from mofo import __version__, backends, cli
from mofo.machine import environment
from mofo.optim.kernels.cpu import library


def test_env_names_versions_devices_and_what_computes_a_step(capsys, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert cli.main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["mofo"] == __version__
    assert {"python", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "torchao"} <= {
        *found["versions"]
    }
    assert {device: step["by"] for device, step in found["steps"].items()} == backends()
    assert all(step["why"] for step in found["steps"].values())
    assert found["devices"][0]["device"] == "cpu"
    assert found["devices"][0]["memory_bytes"] > 1e8
    assert len(found["devices"]) == 1 + torch.accelerator.device_count()
    assert found["threads"] == torch.get_num_threads()
    assert found["variables"]["OMP_WAIT_POLICY"] == "passive"


def test_env_is_a_line_each(capsys):
    assert cli.main(["env"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["mofo"].strip() == __version__
    assert lines["step on cpu"].strip().startswith(backends()["cpu"])


def test_env_says_why_there_is_no_native_library(monkeypatch):
    monkeypatch.setattr(library, "load", lambda: "it was not built")
    found = environment()
    assert found["native_library"] == "it was not built"
    assert found["steps"]["cpu"] == {"by": "plain torch: it was not built", "why": "no native library"}


def test_env_needs_torch_alone():
    program = (
        "import sys; sys.modules |= dict.fromkeys(['transformers', 'trl', 'pydantic', 'psutil', 'rich', 'yaml']); "
        "from mofo.cli import main; sys.exit(main(['env']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "native library" in done.stdout

"""Programs that a model wrote: what passes, what does not, and what they cannot do."""

import os
import time
from pathlib import Path

import pytest

from mofo.errors import UserError
from mofo.measure.harness import sandbox
from mofo.measure.harness.code import humaneval, mbpp, pass_at_k
from mofo.measure.harness.sandbox import isolation, passes

pytestmark = pytest.mark.skipif(os.name != "posix" or not Path("/proc").exists(), reason="closes the network on Linux")


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("assert 1 + 1 == 2", True),
        ("assert 1 + 1 == 3", False),
        ("def f(:", False),
        ("raise SystemExit(0)", False),
        ("import os\nos._exit(0)", False),
        ("import json, math, collections", True),
    ],
)
def test_program_passes_if_it_comes_to_its_end(program, expected):
    assert passes(program) is expected


def test_program_has_no_network():
    assert "network" in isolation() or "sockets" in isolation()
    assert not passes("import socket\nsocket.create_connection(('127.0.0.1', 80), timeout=1)")
    assert passes("import socket\ntry:\n    socket.socket()\nexcept OSError:\n    pass\nelse:\n    raise ValueError")


def test_program_has_limits(monkeypatch):
    assert not passes("bytearray(3 << 30)")
    assert not passes("open('file', 'w').write('x' * (2 << 20))")
    monkeypatch.setattr(sandbox, "SECONDS", 1.0)
    began = time.monotonic()
    assert not passes("import time\ntime.sleep(60)")
    assert time.monotonic() - began < 30


@pytest.mark.full
def test_program_that_computes_for_ever_is_ended():
    assert not passes("while True:\n    pass")


def test_program_starts_in_an_empty_folder_that_goes_with_it(tmp_path):
    note = tmp_path / "where"
    assert passes(f"import os\nassert not os.listdir()\nopen({str(note)!r}, 'w').write(os.getcwd())")
    assert not Path(note.read_text()).exists()
    assert passes(
        "import os\nassert 'SECRET' not in os.environ and set(os.environ) <= {'HOME', 'PATH', 'LC_CTYPE', "
        "'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'}"
    )


def test_program_leaves_no_process_behind(tmp_path):
    mark = tmp_path / "alive"
    late = f"import time; time.sleep(3); open({str(mark)!r}, 'w')"
    assert passes(f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {late!r}])")
    time.sleep(4)
    assert not mark.exists()


def test_program_does_not_run_where_the_network_stays_open(monkeypatch, tmp_path):
    open_network = tmp_path / "isolated.py"
    text = sandbox.ISOLATED.read_text()
    open_network.write_text(text.replace("if close()]", "if False]"))
    monkeypatch.setattr(sandbox, "ISOLATED", open_network)
    with pytest.raises(UserError, match="without network only"):
        passes(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert not (tmp_path / "ran").exists()


def test_pass_at_k_is_the_chance_that_one_of_k_is_right():
    assert pass_at_k(20, 0, 10) == 0
    assert pass_at_k(20, 11, 10) == 1
    assert pass_at_k(20, 1, 10) == pytest.approx(0.5)
    assert pass_at_k(3, 2, 1) == pytest.approx(2 / 3)


def test_scores_of_programs_are_shares_that_pass():
    row = {"entry_point": "add", "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n"}
    right, wrong = "def add(a, b):\n    return a + b", "def add(a, b):\n    return a"
    assert humaneval(row, [[right]]) == {"pass@1": 1}
    scores = humaneval(row, [[right, *[wrong] * 9]])
    assert scores == {"pass@1": pytest.approx(0.1), "pass@10": 1}
    row = {"test_list": ["assert add(2, 3) == 5", "assert add(1, 1) == 2"]}
    assert mbpp(row, [right]) == {"pass@1": 1}
    assert mbpp(row, [wrong]) == {"pass@1": 0}

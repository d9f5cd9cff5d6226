"""Jobs as tasks of a Ray cluster: a local one of two simulated nodes, and a head that runs nothing.

What needs the cluster is marked `full`: on a busy machine it takes half a minute to start, and a gigabyte.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from io import StringIO
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from mofo import cli
from mofo.compare import jobs
from mofo.compare.launch import read_launch
from mofo.compare.on_ray import TRIES, RayCluster, gpus_of_run, ray_cluster
from mofo.compare.recipe import make_recipe
from mofo.errors import UserError

SMALL = {"num_gpus": 0, "object_store_memory": 100 << 20}


@pytest.fixture
def values(tiny_model, tiny_data):
    return {
        "model": tiny_model,
        "data": tiny_data,
        "held_out_rows": 6,
        "methods": ["mofo"],
        "settings": {"learning_rate": 1e-2, "fraction": 0.1},
        "steps": 40,
        "batch_size": 2,
        "points": 20,
        "probes": ["text"],
        "precision": "float32",
        "save": "none",
        "samples": 0,
    }


@pytest.fixture(scope="module")
def cluster():
    """A cluster of Ray, whose address is in `RAY_ADDRESS`; a node that a test removes it must replace.

    Ray's workers have a niceness of 15 by default, with which they starve beside other tests.
    """
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": {"worker_niceness": 0}, **SMALL}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=1, **SMALL)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    cluster.shutdown()


@pytest.fixture
def connected(cluster):
    """A connection for jobs on CPUs."""
    with ray_cluster(gpus=0) as connection:
        yield connection


@pytest.fixture
def said():
    return Console(file=StringIO(), width=200)


def raylet(node):
    return node.all_processes["raylet"][0].process.pid


def wait_until(condition, seconds=500):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def processes_with(word):
    """Processes of this machine with a word in their command."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if word in (process.info["cmdline"] or []):
            found.append(process)
    return found


def run_to_its_end(process):
    wait_until(lambda: process.poll() is not None)
    return process.returncode


@pytest.mark.full
@pytest.mark.processes
def test_process_runs_on_a_node_with_its_folder_log_and_variables(connected, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["-c", "import os, sys; print(os.getcwd(), os.environ['GIVEN'], sys.argv[1:]); sys.exit(3)", "word"]
    process = connected.start(words, Path("job.txt"), {"GIVEN": "this"}, 0, said)
    assert run_to_its_end(process) == 3
    assert Path("job.txt").read_text() == f"{tmp_path} this ['word']\n"
    assert not said.file.getvalue()


@pytest.mark.full
@pytest.mark.processes
def test_process_that_is_killed_is_tried_again_and_given_up_after_the_last_try(connected, said, tmp_path):
    once = "import os, sys; sys.exit(0) if os.path.exists('{0}') else (open('{0}', 'w'), os.kill(os.getpid(), 9))"
    process = connected.start(["-c", once.format(tmp_path / "was_here")], tmp_path / "once.txt", {}, 0, said)
    assert run_to_its_end(process) == 0
    assert said.file.getvalue() == f"once: its process was ended by signal 9; try 2 of {TRIES}.\n"
    process = connected.start(["-c", "import os; os.kill(os.getpid(), 9)"], tmp_path / "always.txt", {}, 0, said)
    with pytest.raises(RuntimeError, match=f"The job always was tried {TRIES} times, and its process was ended by sig"):
        run_to_its_end(process)


@pytest.mark.full
@pytest.mark.processes
def test_process_whose_ray_worker_dies_is_tried_again_and_the_old_one_is_gone(connected, said, tmp_path):
    words = ["-c", "import sys; print('begun', flush=True); sys.stdin.read()", f"word-{tmp_path}"]
    process = connected.start(words, tmp_path / "job.txt", {}, 0, said)
    wait_until((tmp_path / "job.txt").exists)
    wait_until(lambda: processes_with(words[-1]))
    (old,) = processes_with(words[-1])
    old.parent().kill()
    wait_until(lambda: process.poll() is None and "its worker died; try 2" in said.file.getvalue())
    wait_until(lambda: not old.is_running() or old.status() == psutil.STATUS_ZOMBIE)
    wait_until(lambda: processes_with(words[-1]))
    process.kill()
    process.communicate()
    wait_until(lambda: not processes_with(words[-1]))


@pytest.mark.full
@pytest.mark.processes
def test_process_that_waits_for_a_node_has_no_log_and_is_taken_from_the_queue(connected, said, tmp_path):
    words = ["-c", "import sys; sys.stdin.read()", f"word-{tmp_path}"]
    processes = [connected.start(words, tmp_path / f"{number}.txt", {}, 0, said) for number in range(3)]
    wait_until(lambda: len(list(tmp_path.glob("*.txt"))) == 2)  # one CPU a node
    time.sleep(1)
    assert len(list(tmp_path.glob("*.txt"))) == 2
    for process in processes:
        process.kill()
    for process in processes:
        process.communicate()
    wait_until(lambda: not processes_with(words[-1]))
    assert len(list(tmp_path.glob("*.txt"))) == 2


@pytest.mark.full
@pytest.mark.processes
def test_folders_that_nodes_do_not_see_are_refused(connected, tmp_path, monkeypatch):
    connected.check_folders(tmp_path / "out")
    assert not list(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"The node \S+ of the Ray cluster does not see the files in /proc/self/cwd"):
        connected.check_folders(Path("/proc/self/cwd/out"))  # a path that is another folder in another process
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.0")
    with pytest.raises(UserError, match=r"has mofo \S+ and this machine 0.0: install the same"):
        connected.check_folders(tmp_path / "out")


@pytest.mark.full
@pytest.mark.processes
def test_cluster_without_a_node_for_a_run_is_refused(connected):
    with pytest.raises(UserError, match=r"has a CPU and 1 GPUs for a run \(the most that one has is 0 GPUs\)"):
        RayCluster(gpus=1)


@pytest.mark.full
@pytest.mark.processes
def test_run_whose_node_dies_goes_on_at_another_and_ends_as_if_it_had_not(cluster, tmp_path, values, said):
    recipe = make_recipe(values)
    output = tmp_path / "out"
    run = output / "runs" / recipe.runs()[0].name
    nodes = {raylet(node): node for node in cluster.worker_nodes}

    def kill_the_node_of_the_run():
        wait_until((run / "checkpoints" / "1" / "checkpoint-6").exists)
        (worker,) = processes_with(run.name)
        (node,) = (nodes[parent.pid] for parent in worker.parents() if parent.pid in nodes)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill_the_node_of_the_run)
    killer.start()
    results = jobs.compare(recipe, output, on_ray=True, gpus=0, console=said)
    killer.join()
    cluster.add_node(num_cpus=1, **SMALL)
    assert f"{run.name}: its node died; try 2 of {TRIES}." in said.file.getvalue()
    assert f"{run.name}: step 40/40" in said.file.getvalue()
    here = jobs.compare(recipe, tmp_path / "here", console=said)
    assert without_time(results) == without_time(here)
    assert not list(output.parent.glob(".out*"))


def without_time(results):
    return [run.model_dump(exclude={"seconds", "peak_memory_bytes"}) for run in results.runs]


@pytest.mark.full
@pytest.mark.processes
def test_interrupted_command_says_how_to_resume_and_leaves_no_process(cluster, tmp_path, values):
    recipe = make_recipe(values | {"steps": 2000})
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe.to_dict()))
    words = ["compare", "--recipe", str(file), "--output", str(tmp_path / "out"), "--on", "ray", "--gpus", "0"]
    command = [sys.executable, "-m", "mofo.cli", *words]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell's background commands ignore
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    name = recipe.runs()[0].name
    wait_until((tmp_path / "out" / "runs" / name / "metrics.jsonl").exists)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=300)
    assert process.returncode == 130
    assert shown.splitlines()[-1] == "mofo compare: interrupted; run the same command again to resume"
    wait_until(lambda: not processes_with(name))


@pytest.mark.parametrize(
    ("gpus", "jobs", "changes", "message"),
    [
        (None, 2, {}, "--jobs is 2, but with --on ray the cluster decides how many runs go on: leave it out"),
        (2, 1, {}, "--gpus is 2, expected 1, a share of one such as 0.5, or 0 .* by --launch FILE"),
        (-1, 1, {}, "--gpus is -1, expected"),
        (float("nan"), 1, {}, "--gpus is nan, expected"),
        (None, 1, {"precision": "auto"}, "precision is auto, which this machine would decide .* give --precision"),
    ],
)
def test_what_does_not_go_with_a_cluster_is_refused(values, gpus, jobs, changes, message):
    with pytest.raises(UserError, match=message):
        gpus_of_run(gpus, make_recipe(values | changes), None, jobs)


def test_run_has_one_gpu_or_as_many_as_its_launch_has_processes(values, tmp_path):
    recipe = make_recipe(values)
    file = tmp_path / "ddp.yaml"
    file.write_text("distributed_type: MULTI_GPU\nnum_processes: 2\n")
    launched = read_launch(file, recipe, 1, here=False)
    assert [gpus_of_run(gpus, recipe, None, 1) for gpus in (None, 0, 0.5)] == [1, 0, 0.5]
    assert [gpus_of_run(gpus, recipe, launched, 1) for gpus in (None, 2)] == [2, 2]
    with pytest.raises(UserError, match=r"--gpus is 1, but \S+ddp.yaml starts 2 processes: leave --gpus out"):
        gpus_of_run(1, recipe, launched, 1)


def refused(capsys, words, values, tmp_path):
    """Return what the command says of words that it refuses, having written nothing."""
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(make_recipe(values).to_dict()))
    output = tmp_path / "out"
    assert cli.main(["compare", "--recipe", str(file), "--output", str(output), *words]) == 2
    assert list(tmp_path.iterdir()) == [file]
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_command_without_ray_names_what_to_install(capsys, monkeypatch, values, tmp_path, more):
    monkeypatch.setitem(sys.modules, "ray", None)
    line = refused(capsys, ["--on", "ray", *more], values, tmp_path)
    assert line == "mofo compare: --on ray needs the library ray: pip install 'mofo[ray]'."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "0"], "--gpus is for --on ray"),
        (["--on", "ray", "--jobs", "2"], "--jobs is 2, but with --on ray"),
        (["--on", "ray", "--array"], "--array makes a job of Slurm for each run; it does not go with"),
    ],
)
def test_command_refuses_flags_that_contradict_each_other(capsys, values, tmp_path, words, message):
    assert message in refused(capsys, words, values, tmp_path)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster to use at the address 127.0.0.1:1 ([Errno 111] Connection refused): start one"),
        (
            "nonsense",
            "no Ray cluster to use at the address nonsense (Invalid address format: nonsense): start one",
        ),
        ("ray://127.0.0.1:1", "RAY_ADDRESS is ray://127.0.0.1:1, for Ray's client: run mofo on a node of the cluster"),
    ],
)
def test_command_names_an_address_where_no_cluster_is(capsys, monkeypatch, values, tmp_path, address, message):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert message in refused(capsys, ["--on", "ray", "--gpus", "0"], values, tmp_path)

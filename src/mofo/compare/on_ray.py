"""`mofo compare --on ray`: each job as a task of a Ray cluster, which is a worker's process on one of its nodes.

Ray decides where and when a job runs, and sees when a node or a worker has died; folder, resume and progress are those
of jobs on one machine. For that all nodes must reach the folder of the comparison, and the one where the command was
given, at the same paths: what can be seen of that is checked on every node before anything is written.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import TYPE_CHECKING, Any

from mofo.errors import UserError, first_line
from mofo.models.quiet import is_verbose

if TYPE_CHECKING:
    from rich.console import Console

    from mofo.compare.launch import Launch
    from mofo.compare.recipe import Recipe

TRIES = 3
"""How often a job is begun whose node or worker dies; it goes on from its last checkpoint."""

SECONDS_TO_CONNECT = 10
"""Ray itself would try for minutes to reach a cluster that is not there."""

SECONDS_TO_LOOK = 120
"""For a node to start a Python and look at its folders."""


def gpus_of_run(gpus: float | None, recipe: Recipe, launch: Launch | None, jobs: int) -> float:
    """Return how many GPUs each run of a recipe has on a cluster.

    Args:
        gpus: How many were asked for; None if nothing was said.
        recipe: What to do.
        launch: How each run is spread over several processes.
        jobs: Runs at the same time, as on one machine.

    Raises:
        UserError: The recipe or the other numbers do not go with a cluster.
    """
    if jobs > 1:
        raise UserError(f"--jobs is {jobs}, but with --on ray the cluster decides how many runs go on: leave it out.")
    if recipe.precision == "auto" and recipe.weights != "bfloat16":
        raise UserError(
            "precision is auto, which this machine would decide for the nodes of the cluster: give --precision "
            "bfloat16 or float32."
        )
    if launch is not None and gpus not in (None, launch.processes):
        raise UserError(f"--gpus is {gpus:g}, but {launch.file} starts {launch.processes} processes: leave --gpus out.")
    if launch is not None:
        return launch.processes
    if gpus is not None and not 0 <= gpus <= 1:
        raise UserError(
            f"--gpus is {gpus:g}, expected 1, a share of one such as 0.5, or 0 for runs on CPUs; a run has several by "
            "--launch FILE."
        )
    return 1 if gpus is None else gpus


class RayProcess:
    """A process on a node, with the methods of `subprocess.Popen` that a comparison uses.

    Args:
        task: The task of Ray.
        arguments: What it is called with.
        log: File of what the process prints.
        console: Where is said that it is tried again.
    """

    def __init__(self, task: Any, arguments: Sequence[Any], log: Path, console: Console) -> None:
        self.task = task
        self.arguments = arguments
        self.log = log
        self.console = console
        self.returncode: int | None = None
        self.tries = 0
        self._begin()

    def _begin(self) -> None:
        self.log.unlink(missing_ok=True)  # there again once a node has begun
        self.tries += 1
        self.reference = self.task.remote(*self.arguments)

    def poll(self) -> int | None:
        """Return the exit code, or None while the process waits for a node or runs; begin anew one that died.

        Raises:
            UserError: A node cannot start it.
            RuntimeError: It died too often.
        """
        import ray

        if self.returncode is None and ray.wait([self.reference], timeout=0)[0]:
            code = self._ended()
            if isinstance(code, int):
                self.returncode = code
            elif self.tries == TRIES:
                raise RuntimeError(f"The job {self.log.stem} was tried {TRIES} times, and {code} (see {self.log}).")
            else:
                self.console.print(f"{self.log.stem}: {code}; try {self.tries + 1} of {TRIES}.", highlight=False)
                self._begin()
        return self.returncode

    def _ended(self) -> int | str:
        """Return the exit code, or what the process died of."""
        import ray
        from ray.exceptions import (
            LocalRayletDiedError,
            NodeDiedError,
            OutOfMemoryError,
            RayError,
            RayTaskError,
            WorkerCrashedError,
        )

        try:
            code: int = ray.get(self.reference)
        except (NodeDiedError, LocalRayletDiedError):
            return "its node died"
        except OutOfMemoryError:
            return "its node ran out of memory"
        except WorkerCrashedError:
            return "its worker died"
        except RayTaskError as error:
            raise UserError(
                f"The job {self.log.stem} cannot be started on a node of the Ray cluster ({first_line(error.cause)}): "
                "all nodes must reach the folders of the comparison at the same paths."
            ) from error
        except RayError as error:
            raise RuntimeError(f"Ray cannot run the job {self.log.stem}: {first_line(error)}") from error
        return code if code >= 0 else f"its process was ended by signal {-code}"

    def kill(self) -> None:
        """End the process, or take it from the queue."""
        import ray

        if self.returncode is None:
            ray.cancel(self.reference, force=True)

    def communicate(self) -> None:
        """Wait until a process that was killed is gone."""
        import ray

        ray.wait([self.reference], timeout=SECONDS_TO_CONNECT)


class RayCluster:
    """A connection to a Ray cluster.

    Args:
        gpus: GPUs of a run: a whole number, a share of one, or 0 for runs on CPUs.

    Raises:
        UserError: No node has as many.
    """

    def __init__(self, gpus: float) -> None:
        self.gpus = gpus
        self._nodes()

    def _nodes(self) -> list[Mapping[str, Any]]:
        """Return the nodes that can run a job."""
        import ray

        alive = [node for node in ray.nodes() if node["Alive"]]
        able = [node for node in alive if _has(node, "CPU") >= 1 and _has(node, "GPU") >= self.gpus]
        if not able:
            most = max((_has(node, "GPU") for node in alive), default=0)
            raise UserError(
                f"No node of the Ray cluster has a CPU and {self.gpus:g} GPUs for a run (the most that one has is "
                f"{most:g} GPUs): change --gpus, where 0 is for runs on CPUs, or add a node."
            )
        return able

    def check_folders(self, output: Path) -> None:
        """Check that every node has this version of mofo and sees the same folders as this machine.

        Args:
            output: The folder of the comparison; the one above it must exist.

        Raises:
            UserError: A node has or sees others.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        with NamedTemporaryFile(dir=output.absolute().parent, prefix=f".{output.name}.") as token:
            words = (os.getcwd(), token.name, importlib.metadata.version("mofo"))
            looks = {}
            for node in self._nodes():
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                look = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_look)
                looks[look.remote(*words)] = node["NodeName"]
            for look, name in looks.items():
                try:
                    trouble = ray.get(look, timeout=SECONDS_TO_LOOK)
                except ray.exceptions.RayError as error:
                    trouble = f"does not answer ({type(error).__name__})"
                if trouble:
                    raise UserError(f"The node {name} of the Ray cluster {trouble}.")

    def start(
        self, words: Sequence[str], log: Path, environment: Mapping[str, str], gpus: float, console: Console
    ) -> RayProcess:
        """Hand a process to the cluster.

        Args:
            words: What Python is to run.
            log: File of what it prints.
            environment: Variables beside those of the node.
            gpus: Its GPUs.
            console: Where is said that it is tried again.
        """
        import ray

        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_work)
        given = dict(environment) if gpus else {**environment, "CUDA_VISIBLE_DEVICES": ""}
        return RayProcess(task, (list(words), os.getcwd(), str(log.absolute()), given), log, console)


@contextmanager
def ray_cluster(gpus: float) -> Iterator[RayCluster]:
    """Connect to the Ray cluster that `RAY_ADDRESS` names, or to the one that was started on this machine.

    Args:
        gpus: GPUs of a run.

    Raises:
        UserError: Ray is not installed, there is no such cluster, or it has no node for a run.
    """
    if not is_verbose():
        # Else a raylet's last words, fifty lines, are printed among the results. Ray reads it when it is imported.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        import ray
        from ray import cloudpickle
    except ModuleNotFoundError as error:
        raise UserError(f"--on ray needs the library {error.name}: pip install 'mofo[ray]'.") from None
    address = os.environ.get("RAY_ADDRESS") or "auto"
    _check_reachable(address)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # so that a node without mofo can say so
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unusable(address, error) from error
    try:
        yield RayCluster(gpus)
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuse an address where nothing listens."""
    if address.startswith("ray://"):
        raise UserError(
            f"RAY_ADDRESS is {address}, for Ray's client: run mofo on a node of the cluster, and give its HOST:PORT or "
            "leave RAY_ADDRESS out."
        )
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=SECONDS_TO_CONNECT).close()
        except (OSError, OverflowError) as error:
            raise _unusable(address, error) from error


def _unusable(address: str, error: Exception) -> UserError:
    return UserError(
        f"There is no Ray cluster to use at the address {address} ({first_line(error)}): start one with `ray start "
        "--head`, and if it is not on this machine, give its HOST:PORT in RAY_ADDRESS."
    )


def _has(node: Mapping[str, Any], resource: str) -> float:
    return float(node["Resources"].get(resource, 0))


# What the nodes do. It is sent to them as code, and needs nothing but Python there.


def _look(here: str, token: str, version: str) -> str | None:
    """Return what a node lacks; None if nothing.

    Args:
        here: The folder where the command was given.
        token: A file beside the folder of the comparison.
        version: The version of mofo.
    """
    if not Path(here).is_dir():
        return f"has no folder {here}: run the command in a folder that all nodes see at the same path"
    if not Path(token).exists():
        return f"does not see the files in {Path(token).parent}: choose an --output that all nodes see at the same path"
    try:
        with TemporaryFile(dir=Path(token).parent):
            pass
    except OSError as error:
        return f"cannot write in {Path(token).parent} ({error.strerror})"
    try:
        found = importlib.metadata.version("mofo")
    except importlib.metadata.PackageNotFoundError:
        return f"has no mofo in its Python ({sys.executable}): install mofo {version} there"
    return None if found == version else f"has mofo {found} and this machine {version}: install the same"


def _work(words: list[str], here: str, log: str, environment: dict[str, str]) -> int:
    """Run a process on a node and return its exit code.

    Its input is open as long as this task lives: a worker ends with it. `OMP_NUM_THREADS` is what Ray sets, 1 where the
    node has none of its own.
    """
    with (
        open(log, "wb") as file,
        subprocess.Popen(
            [sys.executable, *words],
            cwd=here,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        ) as process,
    ):
        return process.wait()

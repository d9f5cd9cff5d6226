"""Processes that stay, for tests of what several do together: starting them takes longer than most of these tests."""

import os
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


class Processes:
    """Gloo processes with one thread each; use as a context."""

    def __init__(self, number, folder):
        context = mp.get_context("spawn")
        pipes = [context.Pipe() for _ in range(number)]
        self._pipes = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_work, args=(rank, number, str(folder / "store"), theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]

    def __enter__(self):
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_):
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=2)
            process.kill()

    def run(self, function, *args):
        """Call ``function(*args)`` in all of them, and return what each returned."""
        for pipe in self._pipes:
            pipe.send((function, args))
        answers = [pipe.recv() if pipe.poll(240) else (None, "no answer") for pipe in self._pipes]
        errors = [f"process {rank}: {error}" for rank, (_, error) in enumerate(answers) if error]
        assert not errors, "\n".join(errors)
        return [result for result, _ in answers]


def _work(rank, number, store, pipe):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(number), LOCAL_RANK=str(rank))
    dist.init_process_group(
        "gloo", store=dist.FileStore(store, number), rank=rank, world_size=number, timeout=timedelta(seconds=120)
    )
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((function(*args), None))
        except Exception:
            pipe.send((None, traceback.format_exc()))

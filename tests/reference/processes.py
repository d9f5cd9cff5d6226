"""Several processes that talk over gloo, for a test."""

import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing


def in_processes(world_size, function, *arguments):
    """What ``function(*arguments)`` returned in each of so many processes of one group; it must be of a module."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_process, (world_size, folder, function, arguments), nprocs=world_size)
        return [torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(world_size)]


def _process(rank, world_size, folder, function, arguments):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size), "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    try:
        torch.save(function(*arguments), Path(folder) / str(rank))
    finally:
        dist.destroy_process_group()

"""The sample that MoFOCallback reads, against all entries."""

import json
import subprocess
import sys

import pytest
import torch

from mofo.trainers.sample import Sample


def test_sample_stands_for_every_entry(monkeypatch):
    monkeypatch.setattr("mofo.trainers.sample.SAMPLE_SIZE", 1000)
    params = [torch.randn(300, 256), torch.randn(7), torch.randn(64, 100).T]
    sample = Sample(params)
    assert sample.weights.numel() < 1400
    assert sample.weights.sum().item() == pytest.approx(sum(p.numel() for p in params))
    assert sample.period % 2
    positions = Sample([torch.arange(p.numel()).float().reshape(p.shape) for p in params]).read()
    assert positions.numel() == sample.read().numel()
    rows = (positions[: positions.numel() // 2] // 256).unique()
    assert len(rows) > 10


def test_totals_are_near_the_exact_sums(monkeypatch):
    torch.manual_seed(0)
    tensors = [torch.randn(2048, 1024) * scale for scale in (1, 5)]
    exact = sum(t.double().square().sum().item() for t in tensors)
    monkeypatch.setattr("mofo.trainers.sample.SAMPLE_SIZE", 2**16)
    sample = Sample(tensors)
    (estimate,) = sample.totals(sample.read().square())
    assert estimate == pytest.approx(exact, rel=0.03)


SHARDED = """
import json, sys
import torch, torch.distributed as dist
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh
from mofo.trainers.sample import Sample

dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)
whole = [torch.randn(5, 4), torch.randn(3), torch.randn(1, 6), torch.randn(4, 4)]
placed = [
    distribute_tensor(whole[0], mesh, [Shard(0)]),
    whole[1],  # as DDP has it
    distribute_tensor(whole[2], mesh, [Shard(0)]),  # the second process holds nothing of it
    distribute_tensor(whole[3], mesh, [Replicate()]),
]
sample = Sample(placed)
values = sample.read()
number, square = sample.totals(torch.ones_like(values), values.square())
if dist.get_rank() == 0:
    print(json.dumps([number, square, sum(t.numel() for t in whole), sum(t.square().sum().item() for t in whole)]))
dist.destroy_process_group()
"""


@pytest.mark.processes
def test_totals_of_shards_and_copies_are_those_of_the_whole_model(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SHARDED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    number, square, entries, exact = json.loads(done.stdout)
    assert number == pytest.approx(entries)
    assert square == pytest.approx(exact)

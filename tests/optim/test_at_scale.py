"""What `benchmarks/at_scale.py` computes of a sharded step, against what is sent; and the same bits in 16 processes."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from mofo import MoFO
from reference.processes import Processes

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHAPES = [(64, 48), (96, 64), (64,), (128, 16), (64, 32, 3)]


@pytest.fixture
def at_scale(monkeypatch):
    """The functions of the script."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield runpy.run_path(str(BENCHMARKS / "at_scale.py"))
    for name in ("common", "official"):
        sys.modules.pop(name, None)


def step_and_count(seed):
    """Two sharded steps in this process; the bytes of the second's all-reduces, and the parameters whole."""
    mesh = DeviceMesh("cpu", torch.arange(dist.get_world_size()))
    generator = torch.Generator().manual_seed(seed)
    params = []
    for shape in SHAPES:
        whole = torch.randn(shape, generator=generator)
        local = whole.chunk(dist.get_world_size())[dist.get_rank()].clone()
        part = DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride())
        params.append(torch.nn.Parameter(part))
    optimizer = MoFO(params, lr=1e-2, fraction=0.1)
    sent, send = [], dist.all_reduce
    for _ in range(2):
        for param in params:
            grad = torch.randn(param.shape, generator=generator)
            local = grad.chunk(dist.get_world_size())[dist.get_rank()].clone()
            param.grad = DTensor.from_local(
                local, mesh, [Shard(0)], run_check=False, shape=grad.shape, stride=grad.stride()
            )
        sent.clear()
        dist.all_reduce = lambda tensor, *args, **kwargs: sent.append(tensor.nbytes) or send(tensor, *args, **kwargs)
        try:
            optimizer.step()
        finally:
            dist.all_reduce = send
    return sent, [param.detach().full_tensor() for param in params]


def in_one_process(seed):
    """The same steps of whole tensors."""
    generator = torch.Generator().manual_seed(seed)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    optimizer = MoFO(params, lr=1e-2, fraction=0.1)
    for _ in range(2):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        optimizer.step()
    return params


@pytest.mark.processes
@pytest.mark.parametrize("number", [2, 4, pytest.param(16, marks=pytest.mark.full)])
def test_bytes_are_those_that_are_counted_and_bits_those_of_one_process(at_scale, tmp_path, number):
    with Processes(number, tmp_path) as processes:
        answers = processes.run(step_and_count, 5)
    for sent, params in answers:
        assert sum(sent) == at_scale["sent_bytes"](len(SHAPES), rounds=len(sent))
        for expected, found in zip(in_one_process(5), params, strict=True):
            assert torch.equal(expected, found)


def test_a_ring_of_one_node_has_no_network(at_scale):
    seconds = at_scale["all_reduce_seconds"]
    assert seconds(0, 8) == pytest.approx(14 * at_scale["NVLINK_LATENCY"])
    assert seconds(0, 64) == pytest.approx(14 * at_scale["NVLINK_LATENCY"] + 6 * at_scale["NETWORK_LATENCY"])
    assert seconds(8e9, 8) > 2 * 7 / 8 * 8e9 / at_scale["NVLINK"]


def test_models_have_the_parameters_of_their_names(at_scale):
    import math

    sizes = {name: sum(map(math.prod, shapes)) for name, shapes in at_scale["MODELS"].items()}
    assert sizes["7B"] == 6_738_415_616
    assert sizes["70B"] == 68_976_648_192
    assert sizes["405B"] == pytest.approx(405.85e9, rel=1e-3)

"""A distributed checkpoint of a sharded run goes on on another number of processes, to the bit."""

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor

from mofo import MoFO
from reference.processes import Processes

pytestmark = pytest.mark.processes

OPTIONS = {"lr": 1e-2, "fraction": 0.1, "weight_decay": 0.1}


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    with Processes(4, tmp_path_factory.mktemp("processes")) as four:
        yield four


def build(ranks, dtype, score):
    """A sharded model and its optimizer; None in the processes that have no part in it."""
    mesh = DeviceMesh("cpu", torch.arange(ranks))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 30), nn.ReLU(), nn.Linear(30, 3)).to(dtype)
    if mesh.get_coordinate() is None:
        return None
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    optimizer = MoFO(model.parameters(), **OPTIONS, score=score)
    return mesh, model, optimizer


def train(model, optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for param in model.parameters():
            grad = torch.randn(param.shape, generator=generator).to(param.dtype)
            param.grad = distribute_tensor(grad, param.device_mesh, param.placements, src_data_rank=None)
        optimizer.step()
        optimizer.zero_grad()


def result(model, optimizer):
    params = [param.detach().full_tensor() for param in model.parameters()]
    moments = [optimizer.state[param]["exp_avg"].full_tensor() for param in model.parameters()]
    return [tensor.float().tolist() for tensor in params + moments]


def save(path, dtype, score, flatten):
    _, model, optimizer = build(4, dtype, score)
    train(model, optimizer, range(3))
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    model_state, optimizer_state = get_state_dict(model, optimizer, options=options)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=path)
    train(model, optimizer, range(3, 5))
    return result(model, optimizer)


def resume(path, dtype, score, flatten, ranks):
    built = build(ranks, dtype, score)
    if built is None:
        return None
    mesh, model, optimizer = built
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    model_state, optimizer_state = get_state_dict(model, optimizer, options=options)
    state = {"model": model_state, "optimizer": optimizer_state}
    dcp.load(state, checkpoint_id=path, process_group=mesh.get_group())
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=options
    )
    assert all(optimizer.state[param]["exp_avg"].dtype is torch.float32 for param in model.parameters())
    train(model, optimizer, range(3, 5))
    return result(model, optimizer)


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize(("dtype", "score"), [(torch.float32, "momentum"), (torch.bfloat16, "random")])
def test_checkpoint_of_four_resumes_on_four_two_and_one_to_the_bit(processes, tmp_path, dtype, score, flatten):
    path = str(tmp_path / "checkpoint")
    expected = processes.run(save, path, dtype, score, flatten)[0]
    for ranks in (4, 2, 1):
        assert processes.run(resume, path, dtype, score, flatten, ranks)[0] == expected, f"{ranks} processes"

    stored = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    state = {name: kind for name, kind in stored.items() if name.startswith("optimizer.state.") and "seed" not in name}
    assert len(state) == 4 * 3
    assert all(isinstance(kind, TensorStorageMetadata) for kind in state.values())

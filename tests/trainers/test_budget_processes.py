"""A budget in several processes: all pull back their share of the weights by the same part of the change."""

import os

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from mofo.trainers.budget import Budget
from mofo.trainers.keeper import Keeper
from mofo.trainers.watch import Watch
from reference import tiny_llama
from reference.processes import Processes

pytestmark = pytest.mark.processes

BATCHES = torch.randint(6, 260, (4, 4, 12), generator=torch.Generator().manual_seed(0))


def work(folder, kind, cache):
    """Train the tiny model for four steps within a budget, and resume it at its end; what was kept, used and left."""
    os.environ["MOFO_CACHE"] = str(cache)
    rank, processes = dist.get_rank(), dist.get_world_size()
    tokenizer = tiny_llama.make_tokenizer()
    model = tiny_llama.make_model(tokenizer, attention_dropout=0.0).train()
    whole = model
    if kind == "fsdp":
        mesh = init_device_mesh("cpu", (processes,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    else:
        whole = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    watch, keeper = begin(model, tokenizer, folder, step=0)
    for tokens in BATCHES:
        rows = tokens[rank::processes]
        whole(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    before = watch.measure(model, 4)["forgotten/divergence"]
    kept, values = keeper.hold(model, 4, 4)
    again, _ = begin(model, tokenizer, folder, step=4)
    resumed = again.measure(model, 4)["forgotten/divergence"]
    parameters = [p.detach().full_tensor() if kind == "fsdp" else p.detach() for p in model.parameters()]
    return before, kept.model_dump(), values, resumed, [p.tolist() for p in parameters]


def begin(model, tokenizer, folder, *, step):
    watch = Watch(["divergence"], 2)
    keeper = Keeper(Budget({"divergence": 0.01}), watch)
    at_base = keeper.begin(model, folder, step=step, resumable=True, used=0.0)
    watch.begin(model, tokenizer, folder, step=step, resumable=True, precision="", at_base=at_base)
    return watch, keeper


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_processes_pull_back_together(tmp_path, kind):
    with Processes(2, tmp_path) as processes:
        found = processes.run(work, tmp_path / "together", kind, tmp_path / "cache")
    assert found[0] == found[1]
    before, kept, values, resumed, _ = found[0]
    assert before > 0.01
    assert 0 < kept["share"] < 1
    assert 0.9 < kept["used"] <= 1
    assert values["forgotten/divergence"] == pytest.approx(0.01 * kept["used"])
    assert resumed == pytest.approx(values["forgotten/divergence"]), (
        "the base is as it was, in the file of each process"
    )

"""ForgettingCallback's measurements in several processes: each takes its share, and all have the same numbers."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from mofo.forgetting import load_forgetting
from mofo.trainers.watch import Watch, weights_digest
from reference import tiny_llama
from reference.processes import Processes

pytestmark = pytest.mark.processes

PROBES = ["divergence", "text", "choice"]
BATCHES = torch.randint(6, 260, (4, 4, 12), generator=torch.Generator().manual_seed(0))


def train(folder, kind, *, watched=True, rank=0, processes=1):
    """Train the tiny model for four steps, measured after the second and the fourth; its values and parameters."""
    tokenizer = tiny_llama.make_tokenizer()
    model = tiny_llama.make_model(tokenizer, attention_dropout=0.0).train()
    whole = model
    if kind == "fsdp":
        mesh = init_device_mesh("cpu", (processes,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    elif kind == "ddp":
        whole = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    values = {}
    watch = Watch(PROBES, 2)
    if watched:
        watch.begin(model, tokenizer, folder, step=0, resumable=True, precision="")
    for step, tokens in enumerate(BATCHES, 1):
        rows = tokens[rank::processes]
        whole(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if watched and watch.is_due(step):
            values[step] = watch.measure(model, step)
    if watched and rank == 0:
        watch.write()
    parameters = [p.detach().full_tensor() if kind == "fsdp" else p.detach() for p in model.parameters()]
    return values, [p.tolist() for p in parameters]


def work(folder, kind, cache):
    import os

    import torch.distributed as dist

    os.environ["MOFO_CACHE"] = str(cache)
    place = {"rank": dist.get_rank(), "processes": dist.get_world_size()}
    plain = train(folder, kind, watched=False, **place)[1]
    return (*train(folder, kind, **place), plain)


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_processes_measure_what_one_measures(tmp_path, monkeypatch, kind, number):
    monkeypatch.setenv("MOFO_CACHE", str(tmp_path / "alone"))
    tokenizer = tiny_llama.make_tokenizer()
    with Processes(number, tmp_path) as processes:
        found = processes.run(work, tmp_path / "together", kind, tmp_path / "cache")
    values, parameters, plain = found[0]
    assert all(other == found[0] for other in found[1:])
    assert parameters == plain, "the training is the same to the bit without the measurements"
    assert set(values) == {2, 4}

    # one process measures the same of the base and of the parameters that came out
    base = tiny_llama.make_model(tokenizer)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for p, content in zip(tuned.parameters(), parameters, strict=True):
            p.copy_(torch.tensor(content))
    watch = Watch(PROBES, 1)
    watch.begin(base, tokenizer, tmp_path / "one", step=0, resumable=False, precision="")
    expected = watch.measure(tuned, 4)
    assert values[4] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    watch.write()
    one, together = (load_forgetting(tmp_path / name) for name in ("one", "together"))
    assert together.base.forgotten["choice"] == pytest.approx(one.base.forgotten["choice"], rel=1e-4)
    assert together.marks[-1].point.change_errors.forgotten.keys() == one.marks[-1].point.change_errors.forgotten.keys()


def test_digest_of_weights_is_the_same_with_copies(tmp_path):
    with Processes(2, tmp_path) as processes:
        digests = processes.run(digest)
    assert set(digests) == {digest()}


def digest():
    return weights_digest(tiny_llama.make_model(tiny_llama.make_tokenizer()))

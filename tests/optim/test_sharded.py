"""Sharded parameters have the results of one process, to the bit, however they are spread."""

import random

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from mofo import MoFO
from mofo.optim.distributed import search
from mofo.optim.distributed.layout import find_layout
from mofo.optim.rule.scores import SCORES
from reference.back_ends import BACK_ENDS, needs_native
from reference.processes import Processes
from reference.sharded import LAYOUTS, SHAPES, assert_equal, compare, draw_case, fitting, make_mesh, spread

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    with Processes(4, tmp_path_factory.mktemp("processes")) as four:
        yield four


def compare_many(mesh_shape, placements, back_end, seed, number):
    """Options drawn at random, the same in all processes."""
    rng = random.Random(seed)
    for _ in range(number):
        options, dtype, kinds = draw_case(rng)
        rounds_at_random = options["rounding"] == "stochastic" and dtype is torch.bfloat16
        if back_end.get("fused") and (dtype is torch.float64 or options["score"] == "random" or rounds_at_random):
            continue
        compare(mesh_shape, placements, options | back_end, kinds, dtype)


@pytest.mark.parametrize("back_end", BACK_ENDS[1:])
@pytest.mark.parametrize("name", LAYOUTS)
def test_sharded_step_equals_one_process(processes, name, back_end):
    processes.run(compare_many, *LAYOUTS[name], back_end, name, 4)


@pytest.mark.full
@pytest.mark.parametrize("name", LAYOUTS)
def test_sharded_step_equals_one_process_with_many_options(processes, name):
    processes.run(compare_many, *LAYOUTS[name], {}, f"many {name}", 15)


def rounded_at_random(name):
    for fraction in (0.1, 1.0):
        options = {"fraction": fraction, "rounding": "stochastic", "blocks": 4}
        compare(*LAYOUTS[name], options, ["dense"], torch.bfloat16)


@pytest.mark.parametrize("name", ["FSDP, 3", "FSDP x TP by rows", "HSDP"])
def test_stochastic_rounding_is_that_of_one_process(processes, name):
    processes.run(rounded_at_random, name)


def refused():
    mesh = make_mesh((2,))
    if mesh.get_coordinate() is None:
        return
    param = nn.Parameter(spread(torch.zeros(8, 3), mesh, [Shard(0)]))
    param.grad = spread(torch.ones(8, 3), mesh, [Shard(0)])
    optimizer = MoFO([param], fraction=0.25, score="random", fused=True)
    with pytest.raises(RuntimeError, match="fused=True updates sharded parameters"):
        optimizer.step()
    assert (param.full_tensor() == 0).all()


@needs_native
def test_fused_refuses_random_scores_of_shards(processes):
    processes.run(refused)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", ["FSDP, 3", "FSDP x TP by rows", "columns, then rows"])
def test_ties_move_in_row_major_order_across_processes(processes, name, score):
    processes.run(compare, *LAYOUTS[name], {"fraction": 0.3, "score": score}, ["ties"])
    processes.run(compare, *LAYOUTS[name], {"fraction": 0.3, "score": score, "blocks": 4}, ["ties"])


def test_blocks_of_rows_and_experts(processes):
    options = {"fraction": 0.2, "blocks": 12}
    for name in ("FSDP, 2", "FSDP, 3", "FSDP, 4", "TP by columns, 2", "FSDP x TP by rows"):
        processes.run(compare, *LAYOUTS[name], options, ["dense"], torch.float32, [(12, 5), (12, 3, 4), (24, 7)])


def misled(name, spread_):
    search.SPREAD = spread_
    try:
        compare(*LAYOUTS[name], {"fraction": 0.05}, ["dense", "ties", "sparse"], torch.float32, [(600, 500), (64, 33)])
    finally:
        search.SPREAD = 4.0


@pytest.mark.parametrize("spread_", [-50.0, 50.0])
def test_misleading_sample_changes_nothing(processes, spread_):
    processes.run(misled, "FSDP, 3", spread_)


def few_counts():
    search.COUNTS = 1 << 5  # as if there were very many blocks: bins of two bits
    try:
        compare(*LAYOUTS["FSDP, 3"], {"fraction": 0.05}, ["dense", "ties"])
        compare(*LAYOUTS["TP by columns, 2"], {"fraction": 0.3, "blocks": 4}, ["dense", "ties"])
    finally:
        search.COUNTS = 1 << 23


def test_search_with_few_bins_for_very_many_blocks(processes):
    processes.run(few_counts)


def fraction_one(dtype):
    # torch's own AdamW, which may round otherwise at the ends of what it gets: hence whole vectors
    compare((2,), (Shard(0),), {"fraction": 1.0, "weight_decay": 0.1}, ["dense"], dtype, [(64, 32), (128,), (8, 8)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fraction_one_of_shards(processes, dtype):
    processes.run(fraction_one, dtype)


def count_messages(divisor, tied):
    mesh = make_mesh((4,))
    params = [nn.Parameter(spread(torch.zeros(4096 // divisor, 64), mesh, [Shard(0)])) for _ in range(6)]
    optimizer = MoFO([{"params": params[:3]}, {"params": params[3:], "fraction": 0.5}], lr=1e-3, fraction=0.05)
    for param in params:
        shape = param.to_local().shape
        own = torch.ones(shape) if tied else (torch.arange(shape.numel()) * 4 + dist.get_rank() + 1.0).view(shape)
        param.grad = DTensor.from_local(own, mesh, [Shard(0)])
    optimizer.step()
    sent = []
    original = dist.all_reduce

    def record(tensor, *args, **kwargs):
        sent.append(tensor.nbytes)
        return original(tensor, *args, **kwargs)

    dist.all_reduce = record
    try:
        optimizer.step()
    finally:
        dist.all_reduce = original
    return sent


def test_bytes_sent_do_not_depend_on_tensor_sizes(processes):
    small, large = (processes.run(count_messages, divisor, False) for divisor in (16, 1))
    assert small == large
    assert len(small[0]) == 3
    assert sum(small[0]) == 4 * 6 * (2048 + 2 * 2049)
    assert all(len(sent) <= 6 for sent in processes.run(count_messages, 1, True))


def gradients_that_differ():
    mesh = make_mesh((2,))
    if mesh.get_coordinate() is None:
        return
    param = nn.Parameter(spread(torch.zeros(4, 3), mesh, [Shard(0)]))
    whole = nn.Parameter(torch.zeros(5))
    param.grad = distribute_tensor(torch.ones(4, 3), mesh, [Replicate()])  # as after some tensor-parallel backward
    whole.grad = torch.ones(5)
    MoFO([param, whole], lr=1e-2, fraction=0.5).step()
    assert int((param.full_tensor() != 0).sum()) == 6
    assert int((whole != 0).sum()) == 2

    partial = nn.Parameter(DTensor.from_local(torch.zeros(4), mesh, [Partial()]))
    partial.grad = DTensor.from_local(torch.ones(4), mesh, [Partial()])
    with pytest.raises(NotImplementedError, match="sharded or replicated, got placement"):
        MoFO([partial]).step()


def test_gradients_are_redistributed_and_partial_parameters_refused(processes):
    processes.run(gradients_that_differ)


def random_seeds():
    mesh = make_mesh((2, 2))
    torch.manual_seed(dist.get_rank())
    param = nn.Parameter(spread(torch.zeros(8, 3), mesh, [Replicate(), Shard(0)]))
    param.grad = spread(torch.ones(8, 3), mesh, [Replicate(), Shard(0)])
    optimizer = MoFO([param], lr=1e-2, fraction=0.25, score="random")
    optimizer.step()
    return optimizer.state[param]["seed"], param.full_tensor().tolist()


def test_seeds_of_processes_agree_on_the_least(processes):
    answers = processes.run(random_seeds)
    assert answers[0][0] == 0
    assert all(answer == answers[0] for answer in answers)


def fsdp2(offload, half):
    """fully_shard, and one process with the gradients that FSDP2 has reduced."""
    torch.manual_seed(0)
    mesh = make_mesh((4,))
    model = nn.Sequential(nn.Linear(9, 30), nn.ReLU(), nn.Linear(30, 3))
    whole = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if half else None
    options = {"mesh": mesh, "mp_policy": policy or MixedPrecisionPolicy()}
    if offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=False)
    for layer in (model[0], model[2], model):
        fully_shard(layer, **options)
    one = MoFO(whole, lr=1e-2, fraction=0.1)
    several = MoFO(model.parameters(), lr=1e-2, fraction=0.1)
    generator = torch.Generator().manual_seed(dist.get_rank())
    for _ in range(4):
        model(torch.randn(5, 9, generator=generator)).square().mean().backward()
        for p, q in zip(whole, model.parameters(), strict=True):
            p.grad = q.grad.full_tensor()
        one.step()
        several.step()
        several.zero_grad()
    for p, q in zip(whole, model.parameters(), strict=True):
        assert_equal(p.detach(), q.detach().full_tensor(), tuple(p.shape))


@pytest.mark.parametrize(("offload", "half"), [(False, False), (False, True), (True, True)])
def test_fully_shard(processes, offload, half):
    processes.run(fsdp2, offload, half)


def int8(name):
    """Moments in 8 bits: the same codes, whoever has them; some processes have nothing of the tensor of two rows."""
    options = {"fraction": 0.1, "state_dtype": "int8"}
    shapes = [(66, 128), (9,), (2, 4096), (64, 256), (65, 64)]
    compare(*LAYOUTS[name], options, ["dense", "sparse"], torch.bfloat16, shapes)


@pytest.mark.parametrize("name", ["FSDP, 3", "FSDP, 4", "HSDP", "FSDP x TP by rows"])
def test_int8_moments_of_shards(processes, name):
    pytest.importorskip("torchao")
    processes.run(int8, name)


def restored_in_one_process(path):
    """The moments of a checkpoint of a whole model, in one that is sharded."""
    mesh = make_mesh((4,))
    whole = nn.Parameter(torch.arange(10.0))
    whole.grad = torch.arange(10.0)
    one = MoFO([whole], lr=1e-2)
    one.step()
    part = nn.Parameter(spread(whole.detach().clone(), mesh, [Shard(0)]))
    several = MoFO([part], lr=1e-2)
    several.load_state_dict(one.state_dict())
    moment = several.state[part]["exp_avg"]
    assert moment.placements == part.placements
    assert torch.equal(moment.full_tensor(), one.state[whole]["exp_avg"])
    with pytest.raises(ValueError, match="sharded, their parameter is not"):
        one.load_state_dict(several.state_dict())


def test_checkpoint_of_one_process_loads_into_shards(processes, tmp_path):
    processes.run(restored_in_one_process, str(tmp_path))


def indices(name):
    mesh_shape, placements = LAYOUTS[name]
    mesh = make_mesh(mesh_shape)
    if mesh.get_coordinate() is None:
        return
    for shape in fitting([shape for shape in SHAPES if 0 not in shape], placements):
        own = spread(torch.arange(torch.Size(shape).numel()).view(shape), mesh, placements).to_local().flatten()
        found = find_layout(shape, mesh, placements, 1, share_all=False)
        if found is not None and len(own):
            assert torch.equal(found.global_index(torch.arange(len(own))), own), shape


@pytest.mark.parametrize("name", LAYOUTS)
def test_global_index_is_that_of_the_full_tensor(processes, name):
    processes.run(indices, name)

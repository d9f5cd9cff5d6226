"""The GPU kernels of a sharded step: the results of one process to the bit, launches, memory.

Where there is no GPU, in Triton's interpreter and over gloo.
"""

import contextlib
import os
import random

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Shard

from mofo import MoFO
from mofo.optim.distributed import search
from mofo.optim.distributed.layout import Layout
from mofo.optim.kernels import dispatch
from mofo.optim.rule.scores import SCORES
from reference.processes import Processes
from reference.sharded import LAYOUTS, assert_equal, compare, draw_case, make_mesh, spread

pytest.importorskip("triton")
from mofo.optim.distributed import search_triton
from mofo.optim.kernels.triton import kernels, packing, shard_kernels
from mofo.optim.kernels.triton.shard_launch import Kind, Part, ShardConfig, ShardWorkspace, Whole

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1", reason="no GPU, and Triton's interpreter is off"
    ),
]

SMALL = {"chunk": 512, "tile": 32, "programs": 3}
SHAPES = [(7, 5), (12, 3, 4), (1, 5), (64, 33), (0, 3)]
# On a GPU bias corrections come from its own exponential, so that whole tensors must be updated by its kernels too.
WHOLE = {"foreach": False} if DEVICE == "cpu" else {}


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    with Processes(4, tmp_path_factory.mktemp("processes")) as four:
        yield four


def with_triton(function, *args, config=(), settings=()):
    """Call in this process, with tensors on the CPU taken for such on a GPU where there is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "TRITON_DEVICES", (DEVICE,))
        patch.setattr(search_triton, "CONFIG", ShardConfig(**SMALL | dict(config)))
        for name, value in dict(settings).items():
            patch.setattr(search, name, value)
        return function(*args)


def compare_steps(name, options, kinds, dtype=torch.float32, shapes=SHAPES):
    optimizer = compare(*LAYOUTS[name], options, kinds, dtype, shapes, 2, WHOLE, DEVICE)
    if optimizer is not None and options.get("blocks", 1) == 1:  # else each process may have its blocks to itself
        assert any(isinstance(workspace, ShardWorkspace) for workspace in optimizer.workspaces.values())


def compare_drawn(name, number):
    """Options drawn at random, the same in all processes."""
    rng = random.Random(f"triton {name}")
    for _ in range(number):
        options, dtype, kinds = draw_case(rng)
        with_triton(compare_steps, name, options, kinds, torch.float32 if dtype is torch.float64 else dtype)


@pytest.mark.parametrize("name", ["FSDP, 3", "TP by columns, 2", "HSDP", "FSDP x TP by rows"])
def test_triton_step_equals_one_process(processes, name):
    processes.run(compare_drawn, name, 1)


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(LAYOUTS.keys() - {"one process", "replicated"}))
def test_triton_step_equals_one_process_with_many_options(processes, name):
    processes.run(compare_drawn, name, 4)


def ties(score):
    shapes = [(64, 33), (12, 3, 4), (8, 5)]
    for name in ("FSDP x TP by rows", "columns, then rows"):
        with_triton(compare_steps, name, {"fraction": 0.3, "score": score}, ["ties"], torch.float32, shapes)


@pytest.mark.parametrize("score", ["momentum", *(pytest.param(score, marks=pytest.mark.full) for score in SCORES[1:])])
def test_ties_move_in_row_major_order_across_processes(processes, score):
    processes.run(ties, score)


def at_random(score):
    options = {"fraction": 0.2, "score": score, "rounding": "stochastic", "decay": "all", "weight_decay": 0.1}
    for name in ("FSDP x TP by rows", "TP by columns, 3"):
        with_triton(compare_steps, name, options, ["dense"], torch.bfloat16, [(12, 3, 4), (24, 33)])


@pytest.mark.parametrize("score", ["random", *(pytest.param(score, marks=pytest.mark.full) for score in SCORES[:3])])
def test_stochastic_rounding_and_random_scores_are_those_of_one_process(processes, score):
    processes.run(at_random, score)


def one_way(config, settings):
    case = "FSDP, 3", {"fraction": 0.05}, ["dense", "ties"], torch.float32, [(64, 33), (12, 3, 4)]
    with_triton(compare_steps, *case, config=config, settings=settings)


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        pytest.param({}, {"SPREAD": -50.0}, id="bracket beside the k-th highest"),
        pytest.param({}, {"SPREAD": 50.0}, id="bracket of everything"),
        pytest.param({}, {"COUNTS": 1 << 5}, id="bins of two bits, as with very many blocks"),
        pytest.param({}, {"WIDE": 1}, id="counts of 64 bits"),
        pytest.param({"pool_share": 1 << 20}, {}, id="no pool, so that keys are read again"),
        pytest.param({"pool_share": 1, "chunk": 64, "tile": 8}, {}, id="pools for all"),
    ],
)
def test_each_way_of_the_search(processes, config, settings):
    processes.run(one_way, config, settings)


def int8():
    options = {"fraction": 0.1, "state_dtype": "int8"}
    with_triton(compare_steps, "FSDP, 3", options, ["dense", "sparse"], torch.bfloat16, [(66, 128), (9,), (2, 4096)])


@pytest.mark.full
def test_int8_moments_of_shards(processes):
    pytest.importorskip("torchao")
    processes.run(int8)


# ---- Launches, messages, memory.


@contextlib.contextmanager
def recorded():
    """Two lists that get the names of the kernels that are launched, and the bytes that are sent."""
    launched, sent = [], []

    class Spy:
        def __init__(self, name, kernel):
            self.name, self.kernel = name, kernel

        def __getitem__(self, grid):
            launched.append(self.name)
            return self.kernel[grid]

    with pytest.MonkeyPatch.context() as patch:
        of_shards = ("count_sample", "guess_brackets", "update_moments_and_collect", "narrow_brackets",
                     "count_in_bins", "conclude", "count_places", "move_selected")  # fmt: skip
        for module, names in ((kernels, ["prepare"]), (shard_kernels, of_shards)):
            for name in names:
                patch.setattr(module, name, Spy(name, getattr(module, name)))
        send = dist.all_reduce
        patch.setattr(dist, "all_reduce", lambda x, **group: sent.append(x.nbytes) or send(x, **group))
        yield launched, sent


def count(copies, tied):
    """Names of the kernels of a step and bytes of its all-reduces, for so many times three tensors."""
    mesh = make_mesh((4,), DEVICE)
    shapes = [(16, 9), (32,), (8, 3, 2)] * copies
    params = [nn.Parameter(spread(torch.zeros(shape, device=DEVICE), mesh, [Shard(0)])) for shape in shapes]
    optimizer = MoFO([{"params": params[:2]}, {"params": params[2:], "fraction": 0.5}], lr=1e-3, fraction=0.05)
    for param in params:
        shape = param.to_local().shape
        own = torch.arange(shape.numel(), device=DEVICE) * 4 + dist.get_rank() + 1.0
        own = torch.ones_like(own) if tied else own
        param.grad = DTensor.from_local(own.view(shape), mesh, [Shard(0)])
    optimizer.step()
    (workspace,) = optimizer.workspaces.values()
    held = [tensor.data_ptr() for tensor in workspace.held]
    optimizer.param_groups[0].update(lr=1e-2, fraction=0.1, weight_decay=0.1)
    with recorded() as (launched, sent):
        optimizer.step()
    assert list(optimizer.workspaces.values()) == [workspace]
    assert [tensor.data_ptr() for tensor in workspace.held] == held
    return launched, sent


def test_launches_and_messages_do_not_depend_on_the_number_of_tensors(processes):
    few, many = (processes.run(with_triton, count, copies, False) for copies in (1, 3))
    assert [names for names, _ in few] == [names for names, _ in many]
    for launched, sent in many:
        assert len(launched) == 9
        assert launched.count("conclude") == 1  # for which alone the host waits
        assert len(sent) == 3
        assert sum(sent) == 4 * 9 * (2048 + 2 * 2049)


def test_ties_take_few_more_launches_and_messages(processes):
    for launched, sent in processes.run(with_triton, count, 1, True):
        assert len(launched) == 11
        assert len(sent) == 4
        assert sent[-1] <= 4 * 3 * 2049  # of tied blocks alone


def test_workspace_is_small_beside_the_shards():
    rows = 512  # of 4096, in one of eight processes
    layout = Layout((0,), (torch.arange(rows), torch.arange(4096)), (4096, 1), (), 1, 4096 * 4096, rows * 4096)
    kind = Kind(torch.bfloat16, torch.bfloat16, "momentum", False)
    wholes = [Whole(1, 4096 * 4096, 0)] * 20
    parts = [Part(kind, tensor, tensor, 1, rows * 4096, 257, 0) for tensor in range(20)]
    workspace = ShardWorkspace(torch.device("cpu"), wholes, parts, [layout], ShardConfig())
    assert workspace.fits(wholes, parts, [layout], ShardConfig())
    assert not workspace.fits(wholes, parts[:-1], [layout], ShardConfig())
    assert workspace.nbytes < 0.25 * 20 * rows * 4096


# ---- What is given to the step.


def read_on_device():
    """A step that is counted once though the tensor has two parts, and gradients that are scaled."""
    mesh = make_mesh((3,), DEVICE)
    if mesh.get_coordinate() is None:
        return
    generator = torch.Generator().manual_seed(0)
    start, grad = (torch.randn(10, 6, generator=generator).to(DEVICE) for _ in range(2))
    whole = nn.Parameter(start.clone())
    part = nn.Parameter(spread(start.clone(), mesh, [Shard(0)]))
    one = MoFO([whole], lr=1e-2, fraction=0.25, blocks=2, **WHOLE)
    several = MoFO([part], lr=torch.tensor(1e-2, device=DEVICE), fraction=0.25, blocks=2, fused=True)
    several.grad_scale = torch.tensor(1024.0, device=DEVICE)
    whole.grad, part.grad = grad, spread(grad * 1024, mesh, [Shard(0)])
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setattr(packing, "HOST", torch.device("meta"))
        for found in (1.0, 0.0, 0.0):
            several.found_inf = torch.tensor(found, device=DEVICE)
            several.step()
    one.step()
    one.step()
    assert int(several.state[part]["step"]) == 2
    torch.testing.assert_close(spread(whole.detach(), mesh, [Shard(0)]).to_local(), part.detach().to_local())


def test_steps_rates_and_scales_are_read_on_the_device(processes):
    processes.run(with_triton, read_on_device)


def turned():
    """Local tensors that are not contiguous."""
    mesh = make_mesh((2,), DEVICE)
    if mesh.get_coordinate() is None:
        return
    generator = torch.Generator().manual_seed(0)
    start, grad = (torch.randn(6, 8, generator=generator).to(DEVICE) for _ in range(2))
    rows = slice(3 * mesh.get_local_rank(), 3 * mesh.get_local_rank() + 3)
    part, its_grad = (
        DTensor.from_local(x[rows].t().contiguous().t(), mesh, [Shard(0)], shape=x.shape, stride=x.stride())
        for x in (start, grad)
    )
    whole, part = nn.Parameter(start.clone()), nn.Parameter(part)
    whole.grad, part.grad = grad, its_grad
    one, several = MoFO([whole], lr=1e-2, fraction=0.25, **WHOLE), MoFO([part], lr=1e-2, fraction=0.25)
    for optimizer in (one, several, one, several):
        optimizer.step()
    assert not part.to_local().is_contiguous()
    assert_equal(whole.detach()[rows], part.detach().to_local(), "turned")


def test_shards_need_not_be_contiguous(processes):
    processes.run(with_triton, turned)


def on_their_own():
    """As if the other processes had nothing: counts are not added up."""
    mesh = make_mesh((4,), DEVICE)
    param = nn.Parameter(spread(torch.zeros(8, 3, device=DEVICE), mesh, [Shard(0)]))
    param.grad = spread(torch.ones(8, 3, device=DEVICE), mesh, [Shard(0)])
    optimizer = MoFO([param], fraction=0.9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_reduce", lambda *_, **__: None)
        with pytest.raises(RuntimeError, match="did not take part in the step"):
            optimizer.step()
    assert (param.to_local() == 0).all()


def test_missing_entries_are_noticed(processes):
    processes.run(with_triton, on_their_own)

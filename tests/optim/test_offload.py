"""Offloaded to the CPU, an optimizer does what it does on the CPU, to the bit; also where copies come late."""

import gc
import pickle
import weakref

import pytest
import torch
import torch.distributed as dist

from mofo import CPUOffload, MoFO
from mofo.optim import offload
from reference.operands import through_a_file

LANES = []


class LateLane:
    """Stands for a GPU's stream, as slow as may be: copies are made in their order when somebody waits for them."""

    def __init__(self, device):
        self.device = device
        self.is_asynchronous = False  # nothing is pinned without a GPU
        self.queue = []
        self.begun = 0
        LANES.append(self)

    def copy(self, target, source):
        self.queue.append((target, source))
        self.begun += 1
        torch.autograd.graph.increment_version(target)  # at once, as for a copy that a GPU makes later
        return LateEvent(self, self.begun)

    def finish(self, upto):
        while self.begun - len(self.queue) < upto:
            target, source = self.queue.pop(0)
            target.data.copy_(source.detach())

    def join(self):
        pass


class LateEvent:
    def __init__(self, lane, number):
        self.lane, self.number = lane, number

    def synchronize(self):
        self.lane.finish(self.number)


def finish_all():
    """What the next forward pass waits for."""
    for lane in LANES:
        lane.finish(lane.begun)


@pytest.fixture(params=["at once", "late"])
def lane(request, monkeypatch):
    LANES.clear()
    if request.param == "late":
        monkeypatch.setattr(offload, "_Lane", LateLane)


def make_model(dtype=torch.float32):
    torch.manual_seed(0)
    layers = (torch.nn.Linear(64, 80), torch.nn.ReLU(), torch.nn.Linear(80, 64), torch.nn.Linear(64, 8, bias=False))
    return torch.nn.Sequential(*layers).to(dtype)


def backward(model, step):
    inputs = torch.randn(4, 64, generator=torch.Generator().manual_seed(step)).to(model[0].weight.dtype)
    finish_all()
    loss = model(inputs).float().square().mean()
    loss.backward()
    return loss


def train(model, optimizer, steps, *, accumulate=1, clip=None):
    for step in steps:
        optimizer.zero_grad()
        for part in range(accumulate):
            backward(model, 10 * step + part)
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    finish_all()


def assert_same(model, other):
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def assert_same_dicts(a, b):
    assert a["param_groups"] == b["param_groups"]
    assert a["state"].keys() == b["state"].keys()
    for index, state in a["state"].items():
        assert state.keys() == b["state"][index].keys()
        for key, value in state.items():
            assert (
                value == b["state"][index][key]
                if isinstance(value, int)
                else torch.equal(value, b["state"][index][key])
            )


@pytest.mark.usefixtures("lane")
@pytest.mark.parametrize("batch", [1, 1 << 14, 1 << 28])
@pytest.mark.parametrize("options", [{}, {"accumulate": 3}, {"clip": 0.01}, {"accumulate": 2, "clip": 0.01}])
@pytest.mark.parametrize("score", ["momentum", "random"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_offload_equals_the_optimizer_itself_to_the_bit(dtype, score, options, batch, monkeypatch):
    monkeypatch.setattr(offload, "BATCH", batch)
    arguments = {"lr": 1e-2, "fraction": 0.1, "weight_decay": 0.1, "score": score}
    plain, offloaded = make_model(dtype), make_model(dtype)
    expected, optimizer = MoFO(plain.parameters(), **arguments), CPUOffload(offloaded.parameters(), **arguments)
    train(plain, expected, range(4), **options)
    train(offloaded, optimizer, range(4), **options)
    assert_same(plain, offloaded)
    assert_same_dicts(expected.state_dict(), optimizer.state_dict())
    for param in offloaded.parameters():
        assert optimizer.state[param]["exp_avg"].device.type == "cpu"


@pytest.mark.usefixtures("lane")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (MoFO, {"fraction": 0.1, "state_dtype": "int8"}),
        (MoFO, {"fraction": 1.0}),
        (torch.optim.AdamW, {"fused": True}),
        (torch.optim.SGD, {"momentum": 0.9}),
    ],
)
def test_offload_works_with_any_optimizer_and_int8(kind, options):
    plain, offloaded = make_model(), make_model()
    train(plain, kind(plain.parameters(), lr=1e-2, **options), range(4))
    train(offloaded, CPUOffload(offloaded.parameters(), kind, lr=1e-2, **options), range(4))
    assert_same(plain, offloaded)


@pytest.mark.usefixtures("lane")
def test_offload_with_groups_names_and_a_scheduler():
    def groups(model):
        named = list(model.named_parameters())
        return [{"params": named[:3], "fraction": 0.3}, {"params": named[3:], "lr": 1e-3}]

    plain, offloaded = make_model(), make_model()
    results = []
    for model, make in ((plain, MoFO), (offloaded, CPUOffload)):
        optimizer = make(groups(model), lr=1e-2, fraction=0.1)
        assert optimizer.defaults["lr"] == 1e-2
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        for step in range(4):
            train(model, optimizer, [step])
            scheduler.step()
        assert [group["lr"] for group in optimizer.param_groups] == [1e-2 / 5, 1e-3 / 5]
        results.append(optimizer.state_dict())
    assert_same(plain, offloaded)
    assert_same_dicts(*results)
    assert results[1]["param_groups"][0]["param_names"] == ["0.weight", "0.bias", "2.weight"]


@pytest.mark.usefixtures("lane")
@pytest.mark.parametrize(("before", "after"), [(CPUOffload, CPUOffload), (MoFO, CPUOffload), (CPUOffload, MoFO)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("state_dtype", ["float32", "int8"])
def test_resumed_run_equals_uninterrupted_run_to_the_bit(before, after, dtype, state_dtype):
    arguments = {"lr": 1e-2, "fraction": 0.1, "state_dtype": state_dtype}
    whole = make_model(dtype)
    train(whole, MoFO(whole.parameters(), **arguments), range(6))

    first = make_model(dtype)
    stopped = before(first.parameters(), **arguments)
    train(first, stopped, range(3))
    saved = through_a_file({"model": first.state_dict(), "optimizer": stopped.state_dict()})
    second = make_model(dtype)
    resumed = after(second.parameters(), lr=7.0, state_dtype=state_dtype)
    train(second, resumed, [77])  # the copies on the CPU hold other weights
    resumed.load_state_dict(saved["optimizer"])
    second.load_state_dict(saved["model"])
    assert resumed.param_groups[0]["lr"] == 1e-2
    train(second, resumed, range(3, 6))
    assert_same(whole, second)


@pytest.mark.usefixtures("lane")
@pytest.mark.parametrize("make", [MoFO, CPUOffload])
@pytest.mark.parametrize("state_dtype", ["float32", "int8"])
def test_distributed_checkpoint_resumes_to_the_bit(make, state_dtype, tmp_path):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    arguments = {"lr": 1e-2, "fraction": 0.1, "state_dtype": state_dtype}
    whole = make_model()
    train(whole, MoFO(whole.parameters(), **arguments), range(6))
    first = make_model()
    stopped = make(first.parameters(), **arguments)
    train(first, stopped, range(3))
    dcp.save({"optimizer": get_optimizer_state_dict(first, stopped)}, checkpoint_id=tmp_path, no_dist=True)
    second = make_model()
    resumed = make(second.parameters(), **arguments)
    target = {"optimizer": get_optimizer_state_dict(second, resumed)}
    finish_all()  # on a GPU every use of the weights waits for the copies
    second.load_state_dict(first.state_dict())
    dcp.load(target, checkpoint_id=tmp_path, no_dist=True)
    set_optimizer_state_dict(second, resumed, target["optimizer"])
    train(second, resumed, range(3, 6))
    assert_same(whole, second)


@pytest.mark.usefixtures("lane")
def test_changes_after_the_backward_pass_count():
    """Gradients that are scaled, replaced or set by hand, and weights that are changed or replaced in memory."""
    plain, offloaded = make_model(), make_model()
    optimizers = [MoFO(plain.parameters(), lr=1e-2), CPUOffload(offloaded.parameters(), lr=1e-2)]
    for model, optimizer in zip((plain, offloaded), optimizers, strict=True):
        for step in range(4):
            optimizer.zero_grad()
            backward(model, step)
            with torch.no_grad():
                model[0].weight.grad.mul_(3)
                model[2].weight.grad = None
                model[2].weight.grad = torch.full((64, 80), 0.5 + step)  # perhaps where the other was in memory
                model[0].bias.grad = model[0].bias.grad * 2
                if step == 2:
                    model[3].weight.add_(1)
                    model[2].bias.data = torch.ones(64)
            optimizer.step()
            optimizer.step()  # again, with nothing new
    finish_all()
    assert_same(plain, offloaded)


@pytest.mark.usefixtures("lane")
def test_frozen_parameters_rest_and_can_be_thawed():
    plain, offloaded = make_model(), make_model()
    for model, make in ((plain, MoFO), (offloaded, CPUOffload)):
        model[0].weight.requires_grad_(False)
        optimizer = make(model.parameters(), lr=1e-2)
        train(model, optimizer, range(2))
        assert model[0].weight not in optimizer.state
        model[0].weight.requires_grad_(True)
        train(model, optimizer, range(2, 4))
        assert optimizer.state[model[0].weight]["step"] == 2
    assert_same(plain, offloaded)


@pytest.mark.usefixtures("lane")
def test_grad_scaler_skips_the_step_that_overflows():
    plain, offloaded = make_model(), make_model()
    for model, make in ((plain, MoFO), (offloaded, CPUOffload)):
        optimizer, scaler = make(model.parameters(), lr=1e-2), torch.amp.GradScaler("cpu", init_scale=64.0)
        for step in range(4):
            optimizer.zero_grad()
            inputs = torch.randn(4, 64, generator=torch.Generator().manual_seed(step))
            finish_all()
            loss = model(inputs).square().mean() * (torch.inf if step == 2 else 1)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
        finish_all()
        assert optimizer.state[model[0].weight]["step"] == 3
        assert scaler.get_scale() == 32.0
    assert_same(plain, offloaded)


def test_closure_is_evaluated_with_gradients():
    plain, offloaded = make_model(), make_model()
    for model, make in ((plain, MoFO), (offloaded, CPUOffload)):
        optimizer = make(model.parameters(), lr=1e-2)

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            return backward(model, 0)

        assert optimizer.step(closure) > optimizer.step(closure)
    assert_same(plain, offloaded)


def test_add_param_group_adds_or_leaves_no_trace():
    plain, offloaded = make_model(), make_model()
    for model, make in ((plain, MoFO), (offloaded, CPUOffload)):
        optimizer = make(model[0].parameters(), lr=1e-2)
        train(model, optimizer, range(2))
        with pytest.raises(ValueError, match="fraction"):
            optimizer.add_param_group({"params": list(model[2].parameters()), "fraction": 7.0})
        assert len(optimizer.param_groups) == 1
        optimizer.add_param_group({"params": list(model[2].parameters()), "fraction": 0.5})
        train(model, optimizer, range(2, 4))
        assert [group["fraction"] for group in optimizer.param_groups] == [0.15, 0.5]
    assert_same(plain, offloaded)


def test_gradients_are_on_their_way_before_the_step(monkeypatch):
    LANES.clear()
    monkeypatch.setattr(offload, "_Lane", LateLane)
    model = make_model()
    optimizer = CPUOffload(model.parameters(), lr=1e-2)
    count = len(list(model.parameters()))
    train(model, optimizer, [0])
    (lane,) = LANES
    before = lane.begun
    backward(model, 1)
    assert lane.begun - before == count  # the gradients, in the backward pass
    assert lane.queue[0][1] is model[3].weight.grad  # the last layer's first
    optimizer.step()
    assert lane.begun - before == 2 * count  # the parameters, back
    backward(model, 2)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    optimizer.step()
    assert lane.begun - before == 5 * count  # gradients twice, because they were clipped


def test_parameter_does_not_keep_a_deleted_optimizer():
    model = make_model()
    gone = weakref.ref(CPUOffload(model.parameters()))
    gc.collect()
    assert gone() is None
    backward(model, 0)


def test_offload_refuses_before_anything_is_written():
    model = make_model()
    with pytest.raises(ValueError, match="fraction"):
        CPUOffload(model.parameters(), fraction=7.0)
    with pytest.raises(NotImplementedError, match="CUDA devices, got one on meta"):
        CPUOffload([torch.nn.Parameter(torch.ones(3, device="meta"))])
    optimizer = CPUOffload(model.parameters(), lr=1e-2)
    with pytest.raises(TypeError, match="state_dict"):
        pickle.dumps(optimizer)
    backward(model, 0)
    before = [param.detach().clone() for param in model.parameters()]

    model[3].weight.grad = model[3].weight.grad.to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    model[3].weight.grad = None
    replaced = torch.nn.Parameter(torch.ones(8, 64))
    replaced.grad = torch.ones(8, 64)
    own, optimizer.param_groups[0]["params"][-1] = optimizer.param_groups[0]["params"][-1], replaced
    with pytest.raises(RuntimeError, match="is not one that CPUOffload was made with"):
        optimizer.step()
    optimizer.param_groups[0]["params"][-1] = own
    own.data = own.data.bfloat16()
    own.grad = torch.ones(8, 64, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"was torch.float32 .* is torch.bfloat16"):
        optimizer.step()
    for param, value in zip(list(model.parameters())[:-1], before, strict=False):
        assert torch.equal(param, value)


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
def test_offload_refuses_sharded_parameters():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        with pytest.raises(NotImplementedError, match="CPUOffloadPolicy"):
            CPUOffload([torch.nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)]))])
    finally:
        dist.destroy_process_group()


def _train_with_ddp(rank, store, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        for view in (False, True):  # as views of the buckets gradients are reduced where their version does not tell
            for make in (MoFO, CPUOffload):
                model = make_model()
                parallel = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=view)
                optimizer = make(model.parameters(), lr=1e-2)
                for step in range(4):
                    optimizer.zero_grad()
                    inputs = torch.randn(4, 64, generator=torch.Generator().manual_seed(2 * step + rank))
                    parallel(inputs).square().mean().backward()
                    optimizer.step()
                torch.save([p.detach() for p in model.parameters()], f"{folder}/{view}-{make.__name__}-{rank}")
                del parallel  # its reducer must not outlive the process group: freeing it might then never end
    finally:
        dist.destroy_process_group()


@pytest.mark.processes
@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
def test_ddp_gradients_count_after_their_reduction(tmp_path):
    torch.multiprocessing.spawn(_train_with_ddp, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    for view in (False, True):
        results = [torch.load(tmp_path / f"{view}-{kind}-{rank}") for kind in ("MoFO", "CPUOffload") for rank in (0, 1)]
        for params in zip(*results, strict=True):
            assert all(torch.equal(param, params[0]) for param in params)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("options", [{}, {"accumulate": 3}, {"clip": 0.01}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_offload_from_a_gpu_equals_the_step_on_the_cpu(dtype, options):
    model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024) for _ in range(8))).to("cuda", dtype)
    copy = [param.detach().cpu() for param in model.parameters()]
    optimizer, expected = CPUOffload(model.parameters(), lr=1e-3), MoFO(copy, lr=1e-3)
    for _ in range(5):
        optimizer.zero_grad()
        for _ in range(options.get("accumulate", 1)):
            model(torch.randn(64, 1024, device="cuda", dtype=dtype)).square().mean().backward()
        if "clip" in options:
            torch.nn.utils.clip_grad_norm_(model.parameters(), options["clip"])
        for param, own in zip(model.parameters(), copy, strict=True):
            own.grad = param.grad.cpu()
        optimizer.step()
        expected.step()
    for param, own in zip(model.parameters(), copy, strict=True):
        assert torch.equal(param.cpu(), own)
        assert optimizer.state[param]["exp_avg"].device.type == "cpu"

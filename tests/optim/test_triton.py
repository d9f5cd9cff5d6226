"""The GPU kernels against the specification: compiled where there is a GPU, else interpreted, and then to the bit."""

import copy
import itertools
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mofo
from mofo import MoFO
from mofo.optim.kernels import dispatch
from mofo.optim.rule.blocks import as_blocks
from mofo.optim.rule.scores import SCORES, noise, noise_key, scores, select_top_k
from mofo.optim.rule.types import Operands
from mofo.optim.rule.update import update
from reference.matrix import matrix
from reference.operands import RULE, bits, copied, make_operands
from reference.patterns import KINDS, patterned

pytest.importorskip("triton")
from mofo.optim.kernels.triton import kernels, launch, packing
from mofo.optim.kernels.triton.launch import Launch, TritonConfig

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = DEVICE == "cpu"
pytestmark = [
    pytest.mark.skipif(
        INTERPRETED and os.environ.get("TRITON_INTERPRET") != "1", reason="no GPU, and Triton's interpreter is off"
    ),
    # NumPy's, where the interpreter divides by zero and rounds to infinity
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


def on_gpu(test):
    """Mark a test that runs on a GPU alone."""
    return pytest.mark.gpu(pytest.mark.skipif(INTERPRETED, reason="needs a GPU")(test))


DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Blocks of more than 256 entries are large; and each way in which the sample misleads or the pool is too small.
SMALL = {"widths": (64, 256), "sample_pairs": 8, "chunk": 256, "bins": 256, "pool": 64, "pool_share": 16}
SMALL |= {"least_pool": 4, "programs": 3, "tile": 32}
TINY_POOL = {"pool": 64, "pool_share": 1 << 30, "least_pool": 1}
PATHS = {
    "usual": {},
    "bracket_of_one_key": {"spread": 0.0},
    "bracket_of_everything": {"spread": 1e9},
    "pool_of_one": TINY_POOL,
    "pool_of_one_and_bracket_of_one_key": TINY_POOL | {"spread": 0.0},
    "few_bins": TINY_POOL | {"bins": 16},
    "one_program": {"programs": 1},
    "small_chunks": {"chunk": 64, "tile": 16},
}
HARDEST = ["heavy", "zero", "few_values", "sparse"]


def kernels_step(tensors, rule, workspaces=None, found_inf=None, grad_scale=None, **config):
    """One step of these operands by the kernels, with small sizes unless `config` says otherwise."""
    step = Launch({} if workspaces is None else workspaces, TritonConfig(**SMALL | config), found_inf, grad_scale)
    for operands in tensors:
        assert launch.can_update(*operands[:4])
        step.add(operands, rule)
    step.run()


def assert_selected(before, after, rule):
    """What moved is what the specification selects by the kernel's own moments."""
    param, grad, exp_avg, exp_avg_sq, step, seed = after
    noises = noise(torch.arange(param.numel()), noise_key(seed, int(step)), torch.float32).view(param.shape)
    ranking = as_blocks(scores(rule.score, grad.float(), exp_avg, exp_avg_sq, noises), rule.blocks)
    selected = select_top_k(ranking, rule.sizes(param)[1]).view(param.shape)
    assert rule.decay == "all" or torch.equal(bits(param)[~selected], bits(before)[~selected])


def assert_meets_the_specification(tensors, path=(), steps=1, **changed):
    """Let the kernels and the specification make the same steps, with one rule for all tensors."""
    rule, workspaces = replace(RULE, **changed), {}
    expected = [copied(operands, seed=seed) for seed, operands in enumerate(tensors)]
    actual = [copied(operands, DEVICE, seed) for seed, operands in enumerate(tensors)]
    for _ in range(steps):
        starts = [theirs.param.cpu().clone() for theirs in actual]
        for ours in expected:
            update(ours, rule)
        kernels_step(actual, rule, workspaces, **dict(path))
        for ours, theirs, start in zip(expected, actual, starts, strict=True):
            found = copied(theirs, "cpu")
            if start.numel():
                assert_selected(start, found, rule)
            for name, a, b in zip(Operands._fields[:4], ours[:4], found[:4], strict=True):
                if INTERPRETED:
                    assert torch.equal(bits(a), bits(b)), name
                else:
                    torch.testing.assert_close(a, b, rtol=1e-6 if a.dtype is torch.float32 else 2**-7, atol=1e-30)
            assert ours.step == theirs.step


@pytest.mark.parametrize(
    ("path", "score"),
    [(path, "momentum") for path in PATHS] + [("pool_of_one_and_bracket_of_one_key", score) for score in SCORES[1:]],
)
def test_kernels_meet_specification_on_the_hardest_patterns(path, score):
    generator = torch.Generator().manual_seed(0)
    tensors = [make_operands(patterned(kind, n, generator).float(), generator) for kind in HARDEST for n in (200, 700)]
    assert_meets_the_specification(tensors, PATHS[path], score=score)


@pytest.mark.parametrize(
    ("path", "score", "fraction"),
    matrix(PATHS, SCORES, [1e-6, 0.6], always=lambda *case: case == ("usual", "momentum", 0.6)),
)
def test_kernels_meet_specification_on_every_pattern_path_and_score(path, score, fraction):
    generator = torch.Generator().manual_seed(1)
    tensors = [make_operands(patterned(kind, 1300, generator).float(), generator) for kind in KINDS]
    assert_meets_the_specification(tensors, PATHS[path], score=score, fraction=fraction)


@pytest.mark.parametrize("path", matrix(PATHS, always=lambda path: path == "pool_of_one"))
def test_kernels_meet_specification_in_two_steps_of_blocks_of_rows(path):
    generator = torch.Generator().manual_seed(10)
    grads = [patterned(kind, 3 * 300, generator).view(3, 300).bfloat16() for kind in KINDS]
    tensors = [make_operands(grad, generator) for grad in grads]
    assert_meets_the_specification(tensors, PATHS[path], blocks=3, steps=2, rounding="stochastic")


@given(
    rows=st.integers(1, 3),
    columns=st.integers(0, 300),
    blocks=st.integers(1, 3),
    fraction=st.floats(1e-4, 1.0),
    score=st.sampled_from(SCORES),
    decay=st.sampled_from(["selected", "all"]),
    maximize=st.booleans(),
    rounding=st.sampled_from(["nearest", "stochastic"]),
    betas=st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.0, 0.9, 0.999])),
    eps=st.sampled_from([0.0, 1e-8, 1e-2]),
    lr=st.sampled_from([0.0, 1e-3, 10.0, torch.tensor(1e-3)]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(KINDS),
    path=st.sampled_from(sorted(PATHS)),
    seed=st.integers(0, 1 << 40),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_kernels_meet_specification_with_any_options(rows, columns, blocks, dtype, kind, path, seed, **options):
    if dtype is torch.float16:
        options["rounding"] = "nearest"
    generator = torch.Generator().manual_seed(seed)
    grad = patterned(kind, rows * blocks * columns, generator).view(rows * blocks, columns).to(dtype)
    assert_meets_the_specification([make_operands(grad, generator)], PATHS[path], blocks=blocks, **options)


@pytest.mark.parametrize("param", DTYPES)
@pytest.mark.parametrize("grad", DTYPES)
def test_kernels_take_any_types_of_parameters_and_gradients(param, grad):
    generator = torch.Generator().manual_seed(2)
    tensors = [make_operands(torch.randn(n, generator=generator).to(grad), generator) for n in (50, 300)]
    tensors = [operands._replace(param=operands.param.to(param)) for operands in tensors]
    for fraction in (0.1, 1.0):
        assert_meets_the_specification(tensors, fraction=fraction)


def test_kernels_take_sizes_at_their_limits():
    generator = torch.Generator().manual_seed(3)
    sizes = [1, 2, 15, 16, 63, 64, 65, 255, 256, 257, 272, 511, 512]
    tensors = [make_operands(torch.randn(n, generator=generator), generator) for n in sizes]
    for fraction in (1e-9, 0.999, 1.0):  # one entry, and all
        assert_meets_the_specification(tensors, fraction=fraction)
    assert_meets_the_specification([make_operands(torch.randn(())), make_operands(torch.randn(3, 0))])


@pytest.mark.parametrize("blocks", [1, 2, 12])
def test_kernels_take_blocks_from_tensors_to_rows(blocks):
    generator = torch.Generator().manual_seed(4)
    for columns in (64, 300):
        grad = patterned("rows", 12 * columns, generator).view(12, columns).float()
        assert_meets_the_specification([make_operands(grad, generator)], blocks=blocks)


@pytest.mark.parametrize(
    ("score", "bad"), list(zip(SCORES, [torch.nan, torch.inf, -torch.inf, torch.nan], strict=True))
)
def test_non_finite_entries_always_move(score, bad):
    generator = torch.Generator().manual_seed(5)
    tensors = []
    for n, many in [(70, 5), (600, 3), (600, 100), (600, 600)]:
        grad = torch.randn(n, generator=generator)
        grad[torch.randperm(n, generator=generator)[:many]] = bad
        tensors.append(make_operands(grad, generator))
    for path in ("usual", "pool_of_one"):
        assert_meets_the_specification(tensors, PATHS[path], score=score, fraction=0.01)


def test_kernels_give_the_same_bits_beside_other_tensors():
    generator = torch.Generator().manual_seed(6)
    tensors = [make_operands(patterned("heavy", n, generator).bfloat16(), generator) for n in (700, 40, 1000)]
    results = []
    for chosen in ([0, 1, 2], [2, 0], [0]):
        copies = {i: copied(tensors[i], DEVICE, seed=i) for i in chosen}
        kernels_step(copies.values(), replace(RULE, rounding="stochastic"))
        results.append(copies[0])
    for other in results[1:]:
        assert all(torch.equal(bits(a), bits(b)) for a, b in zip(results[0][:4], other[:4], strict=True))


# ---- Tables, memory, launches.


def counted_launches(monkeypatch):
    """A list that gets the name of every kernel that is launched."""
    launched = []

    class Spy:
        def __init__(self, name, kernel):
            self.name, self.kernel = name, kernel

        def __getitem__(self, grid):
            launched.append(self.name)
            return self.kernel[grid]

    for name in ("prepare", "update_everything", "update_small_block", "guess_bracket", "update_moments_and_count",
                 "narrow_bracket", "count_in_bins", "move_above", "move_from_pool"):  # fmt: skip
        monkeypatch.setattr(kernels, name, Spy(name, getattr(kernels, name)))
    return launched


def step_of_sizes(workspaces, sizes, t=0.0, **changed):
    tensors = [copied(make_operands(torch.randn(n)), DEVICE) for n in sizes]
    tensors = [operands._replace(step=torch.tensor(t)) for operands in tensors]
    kernels_step(tensors, replace(RULE, **changed), workspaces)


def test_launches_do_not_depend_on_the_number_of_tensors(monkeypatch):
    launched = counted_launches(monkeypatch)
    counts = []
    for copies in (1, 3):
        step_of_sizes({}, [16, 128, 512] * copies)
        counts.append(sorted(launched))
        launched.clear()
    assert counts[0] == counts[1]
    assert len(counts[0]) < 20


def test_workspace_is_kept_though_rates_and_fractions_change():
    workspaces = {}
    step_of_sizes(workspaces, [16, 512])
    (workspace,) = workspaces.values()
    held = [tensor.data_ptr() for tensor in workspace.held]
    assert len(held) > 10
    for t in range(1, 4):
        step_of_sizes(workspaces, [16, 512], float(t), lr=0.1 / t, fraction=0.1 * t, betas=(0.5, 0.9), decay="all")
    assert list(workspaces.values()) == [workspace]
    assert [tensor.data_ptr() for tensor in workspace.held] == held
    step_of_sizes(workspaces, [16, 1024])
    assert next(iter(workspaces.values())) is not workspace


def test_workspace_is_small_beside_the_largest_tensor():
    sizes = [32000 * 4096, *[4096 * 4096, 4096 * 11008] * 8, 4096]
    tensors = [launch.Partition(1, n, False) for n in sizes]
    variant = launch.Variant(torch.device("cpu"), torch.bfloat16, torch.bfloat16, "momentum", False, True)
    assert launch.Workspace(variant, tensors, TritonConfig()).nbytes < 0.1 * 2 * sizes[0]
    rows = [launch.Partition(32000, 4096, False)]
    assert launch.Workspace(variant, rows, TritonConfig()).nbytes < 0.1 * 2 * sizes[0]


def test_overlapping_tensors_are_refused_and_not_written():
    storage = torch.randn(100, device=DEVICE)
    before = storage.clone()
    overlapping = [
        Operands(part, torch.ones_like(part), torch.zeros_like(part), torch.zeros_like(part), torch.tensor(0.0), 0)
        for part in (storage[:60], storage[40:])
    ]
    with pytest.raises(RuntimeError, match="overlap in memory"):
        kernels_step(overlapping, RULE)
    assert torch.equal(storage, before)


def test_can_update_refuses_other_tensors():
    x = torch.randn(6, 4, device=DEVICE)
    assert launch.can_update(x, x.bfloat16(), x, x)
    assert not launch.can_update(x.double())
    assert not launch.can_update(x.t())
    assert not launch.can_update(x, x, x.bfloat16(), x)
    assert not launch.can_update(x, x._neg_view())
    assert not launch.can_update(x, torch.randn(4, 6, device=DEVICE).t())
    assert not launch.can_update(torch.empty(1 << 31, device="meta"))


# ---- What is read on the device.


@pytest.fixture
def everything_is_a_device(monkeypatch):
    """So that steps and rates on the CPU count as on a device."""
    if INTERPRETED:
        monkeypatch.setattr(packing, "HOST", torch.device("meta"))


@pytest.mark.parametrize("score", ["momentum", "random"])
def test_kernels_read_steps_and_rates_on_the_device(everything_is_a_device, score):
    generator = torch.Generator().manual_seed(7)
    for n in (50, 600):
        ours = make_operands(torch.randn(n, generator=generator).bfloat16(), generator, seed=9)
        ours = ours._replace(step=torch.tensor(0.0))
        theirs = copied(ours, DEVICE)._replace(step=torch.tensor(0.0, device=DEVICE))
        rule, workspaces = replace(RULE, score=score, rounding="stochastic"), {}
        for lr in (0.1, 0.05, 0.025):
            update(ours, replace(rule, lr=lr))
            kernels_step([theirs], replace(rule, lr=torch.tensor(lr, device=DEVICE)), workspaces)
        assert theirs.step == 3
        torch.testing.assert_close(ours.param, theirs.param.cpu(), rtol=2**-7, atol=1e-6)
        torch.testing.assert_close(ours.exp_avg, theirs.exp_avg.cpu())


@pytest.mark.parametrize("fraction", [0.1, 1.0])
def test_kernels_unscale_and_leave_out_a_step_with_infinities(everything_is_a_device, fraction):
    generator = torch.Generator().manual_seed(8)
    rule, scale = replace(RULE, fraction=fraction, decay="all"), torch.tensor(1024.0, device=DEVICE)
    for n in (50, 600):
        plain = copied(make_operands(torch.randn(n, generator=generator), generator), DEVICE)
        plain = plain._replace(step=torch.tensor(0.0, device=DEVICE))
        scaled = copied(plain)._replace(grad=plain.grad * 1024)
        before = copied(scaled)
        workspaces = {}
        for found in (1.0, 0.0):
            kernels_step([scaled], rule, workspaces, torch.tensor(found, device=DEVICE), scale)
            if found:
                assert all(torch.equal(a, b) for a, b in zip(scaled[:5], before[:5], strict=True))
        kernels_step([plain], rule)
        assert plain.step == scaled.step == 1
        assert all(torch.equal(scaled[i], plain[i]) for i in (0, 2, 3))


# ---- Behind MoFO, with tensors on the CPU taken for such on a GPU where there is none.


@pytest.fixture
def taken_for_gpu(monkeypatch):
    monkeypatch.setattr(dispatch, "TRITON_DEVICES", (DEVICE,))


def a_model(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(DEVICE, dtype)) for s in [(20, 30), (7,), ()]]


def train(optimizer, params, steps, first=0):
    for number in range(first, first + steps):
        generator = torch.Generator().manual_seed(number)
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator).to(param)
        optimizer.step()


def test_triton_is_the_default_on_a_gpu(taken_for_gpu, monkeypatch):
    launched = counted_launches(monkeypatch)
    params, others = a_model(), a_model()
    optimizer, plain = MoFO(params, lr=0.1, fraction=0.2), MoFO(others, lr=0.1, fraction=0.2, foreach=False)
    train(plain, others, 2)
    assert not launched
    train(optimizer, params, 2)
    assert launched
    for a, b in zip(params, others, strict=True):
        torch.testing.assert_close(a, b)
    assert all(set(state) == {"step", "exp_avg", "exp_avg_sq"} for state in optimizer.state.values())
    assert all(state["step"].is_cpu for state in optimizer.state.values())
    MoFO(params, foreach=True).step()
    assert mofo.backends()["gpu"].startswith("triton 3")


def test_unserved_tensors_go_to_plain_torch_or_are_refused(taken_for_gpu, monkeypatch):
    launched = counted_launches(monkeypatch)
    turned = torch.nn.Parameter(torch.randn(6, 4, device=DEVICE).t())
    double = torch.nn.Parameter(torch.randn(6, dtype=torch.float64, device=DEVICE))
    train(MoFO([turned, double], lr=0.1, fraction=0.2), [turned, double], 1)
    assert not launched
    for param in (turned, double):
        with pytest.raises(RuntimeError, match=r"fused=True updates .* contiguous, on a GPU"):
            MoFO([param], fused=True)
        with pytest.raises(NotImplementedError, match="capturable=True is not supported"):
            MoFO([param], capturable=True)


def test_step_without_triton(taken_for_gpu, monkeypatch):
    monkeypatch.setattr(dispatch, "triton_version", lambda: None)
    params = a_model()
    with pytest.raises(RuntimeError, match=r"needs Triton .* pip install triton"):
        MoFO(params, fused=True)
    assert "pip install triton" in mofo.backends()["gpu"]
    train(MoFO(params, foreach=True), params, 1)


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"score": "random"}, {"rounding": "stochastic"}])
def test_resumed_run_equals_uninterrupted_run_to_the_bit(taken_for_gpu, options):
    dtype = torch.bfloat16 if "rounding" in options else torch.float32
    params = a_model(dtype=dtype)
    optimizer = MoFO(params, lr=0.1, fraction=0.2, **options)
    train(optimizer, params, 2)
    others = [torch.nn.Parameter(param.detach().clone()) for param in params]
    resumed = MoFO(others, lr=0.1, fraction=0.2, **options)
    resumed.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    for both in ((optimizer, params), (resumed, others)):
        train(*both, 2, first=2)
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(params, others, strict=True))


def test_workspaces_are_not_copied_with_the_optimizer(taken_for_gpu):
    params = a_model()
    optimizer = MoFO(params, lr=0.1, fraction=0.2)
    train(optimizer, params, 1)
    assert optimizer.workspaces
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert not twin.workspaces
        train(twin, twin.param_groups[0]["params"], 1)


def test_capturable_counts_steps_on_the_device(taken_for_gpu, everything_is_a_device):
    params, others = a_model(), a_model()
    lr = torch.tensor(0.1, device=DEVICE)
    optimizer, plain = MoFO(params, lr, fraction=0.2, capturable=True), MoFO(others, 0.1, fraction=0.2, foreach=False)
    train(optimizer, params, 3)
    train(plain, others, 3)
    for a, b in zip(params, others, strict=True):
        torch.testing.assert_close(a, b)
        assert optimizer.state[a]["step"] == 3
        assert optimizer.state[a]["step"].device == a.device
    with pytest.raises(RuntimeError, match="capturable=True needs the fused back end"):
        MoFO(params, capturable=True, foreach=True)


# ---- Every kernel is compiled for the processors that it is meant for, which needs none of them. The interpreter knows
# no types.


@pytest.mark.parametrize(
    ("target", "scores"),
    [
        ("cuda:90", SCORES[:1]),
        pytest.param("cuda:90", SCORES[1:], marks=pytest.mark.full),
        pytest.param("cuda:80", SCORES, marks=pytest.mark.full),
        pytest.param("hip:gfx942", SCORES, marks=pytest.mark.full),
    ],
)
def test_kernels_compile(target, scores):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    script = Path(__file__).parents[1] / "reference" / "compile_kernels.py"
    done = subprocess.run(
        [sys.executable, str(script), target, *scores], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# ---- Only with a GPU.


@on_gpu
def test_step_does_not_wait_for_the_gpu_and_takes_no_memory():
    params = a_model(dtype=torch.bfloat16)
    optimizer = MoFO(params, lr=0.1, fraction=0.2)
    grads = [torch.randn_like(param) for param in params]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    for _ in range(3):
        optimizer.step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(3):
            optimizer.param_groups[0].update(lr=0.1 / (number + 1), fraction=0.1 * (number + 1))
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@on_gpu
def test_captured_step_is_replayed():
    params, others = a_model(), a_model()
    lr = torch.tensor(0.1, device=DEVICE)
    optimizer, eager = MoFO(params, lr, fraction=0.2, capturable=True), MoFO(others, 0.1, fraction=0.2)
    for param, other in zip(params, others, strict=True):
        param.grad = torch.randn_like(param)
        other.grad = param.grad
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for rate in (0.1, 0.05):
        lr.fill_(rate)
        graph.replay()
    for rate in (0.1, 0.1, 0.05):
        eager.param_groups[0]["lr"] = rate
        eager.step()
    for a, b in zip(params, others, strict=True):
        torch.testing.assert_close(a, b)
        assert optimizer.state[a]["step"] == 3


@on_gpu
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_on_large_tensors_with_the_default_config(kind):
    generator = torch.Generator().manual_seed(9)
    for n, blocks in itertools.product((1 << 22, 3_000_001), (1,)):
        operands = make_operands(patterned(kind, n, generator).bfloat16(), generator)
        found, rule = copied(operands, DEVICE), replace(RULE, blocks=blocks)
        step = Launch({})
        step.add(found, rule)
        step.run()
        assert_selected(operands.param, copied(found, "cpu"), rule)


@on_gpu
def test_grad_scaler_leaves_unscaling_to_the_kernels():
    params = a_model()
    optimizer = MoFO(params, lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=4.0)
    for bad, moved in ((torch.inf, 0), (1.0, 1)):
        optimizer.zero_grad()
        scaler.scale(sum((param * bad).sum() for param in params)).backward()
        scaler.step(optimizer)
        scaler.update()
        assert optimizer.state[params[0]]["step"] == moved

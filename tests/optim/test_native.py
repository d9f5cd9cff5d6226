"""The native library equals the specification to the bit, on every instruction set, number of threads and fallback."""

import itertools
import re
import subprocess
import sys
from array import array
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mofo
from mofo import MoFO
from mofo.optim.kernels import Execution
from mofo.optim.kernels.cpu import library
from mofo.optim.kernels.cpu.library import MemoryLayout, NativeConfig, pack
from mofo.optim.kernels.cpu.step import NativeStep
from mofo.optim.kernels.cpu.table import Table
from mofo.optim.rule.scores import SCORES
from mofo.optim.rule.types import Operands
from mofo.optim.rule.update import update
from reference.back_ends import needs_native
from reference.matrix import matrix
from reference.naive import naive_step
from reference.operands import RULE, bits, copied, make_operands
from reference.patterns import KINDS, patterned

pytestmark = needs_native

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
INSTRUCTION_SETS = [] if isinstance(library.load(), str) else list(library.load().kernels)

# Sampling from the smallest block on, and each way in which the sample or the memory fails.
SAMPLED = {"small": 64, "sample_rate": 4}
PATHS = {
    "default": {},
    "sampled": SAMPLED,
    "unsampled": {"small": 1 << 40},
    "bracket_of_one_key": SAMPLED | {"spread": 0.0},
    "bracket_of_everything": SAMPLED | {"spread": 1e9},
    "no_memory_for_the_band": SAMPLED | {"band_share": 1 << 40},
    "no_memory_for_journals": SAMPLED | {"journal_share": 1 << 40},
    "memory_for_some_journals": SAMPLED | {"journal_share": 1 << 10},
    "memory_for_all_journals": SAMPLED | {"journal_share": 1},
    "one_line": {"small": 64, "sample_rate": 1 << 40},
}


def native_step(tensors, rule, **config):
    """One step of these operands by the library."""
    step = NativeStep(NativeConfig(**config))
    for operands in tensors:
        assert library.can_update(*operands[:4])
        step.add(operands, rule, Execution())
    step.run()


def assert_equal_to_the_specification(tensors, config=(), steps=1, **changed):
    """Let both back ends make the same steps, with one rule for all tensors."""
    rule = replace(RULE, **changed)
    expected, actual = ([copied(operands, seed=seed) for seed, operands in enumerate(tensors)] for _ in range(2))
    for _ in range(steps):
        for ours in expected:
            update(ours, rule)
        native_step(actual, rule, **dict(config))
    for ours, theirs in zip(expected, actual, strict=True):
        for name, a, b in zip(Operands._fields[:4], ours[:4], theirs[:4], strict=True):
            assert torch.equal(bits(a), bits(b)), name
        assert ours.step == theirs.step


@pytest.mark.parametrize(
    ("instruction_set", "score", "path"),
    matrix(INSTRUCTION_SETS, SCORES, PATHS, always=lambda _, score, path: score == "momentum" or path == "sampled"),
)
def test_native_step_equals_specification_on_every_pattern_and_path(instruction_set, score, path):
    generator = torch.Generator().manual_seed(0)
    for kind, fraction in itertools.product(KINDS, (1e-6, 0.05, 0.6)):
        grad = patterned(kind, 40_000, generator).float()
        tensors = [make_operands(grad, generator)]
        config = PATHS[path] | {"instruction_set": instruction_set, "threads": 1}
        assert_equal_to_the_specification(tensors, config, score=score, fraction=fraction)


@pytest.mark.parametrize(
    ("threads", "own_threads", "path"),
    matrix(
        [2, 3],
        [True, False],
        PATHS,
        always=lambda threads, own_threads, path: (
            path == "memory_for_some_journals" or (threads, own_threads, path) == (3, False, "default")
        ),
    ),
)
def test_native_step_equals_specification_between_threads(threads, own_threads, path):
    generator = torch.Generator().manual_seed(1)
    config = PATHS[path] | {"threads": threads, "own_threads": own_threads}
    for kind in KINDS:
        large = make_operands(patterned(kind, 400_001, generator).float(), generator)
        small = [make_operands(patterned(kind, n, generator).float(), generator) for n in (1, 70, 5000, 50_000)]
        assert_equal_to_the_specification([large, *small], config)


@given(
    rows=st.integers(1, 6),
    columns=st.integers(0, 400),
    blocks=st.integers(1, 6),
    fraction=st.floats(1e-4, 1.0),
    score=st.sampled_from(SCORES),
    decay=st.sampled_from(["selected", "all"]),
    maximize=st.booleans(),
    rounding=st.sampled_from(["nearest", "stochastic"]),
    betas=st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.9, 0.99]), st.sampled_from([0.0, 0.9, 0.999])),
    eps=st.sampled_from([0.0, 1e-8, 1e-2]),
    lr=st.sampled_from([0.0, 1e-3, 10.0, torch.tensor(1e-3)]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(KINDS),
    path=st.sampled_from(sorted(PATHS)),
    instruction_set=st.sampled_from(INSTRUCTION_SETS or [None]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1 << 40),
)
@settings(max_examples=400, deadline=None)
def test_native_step_equals_specification_with_any_options(
    rows, columns, blocks, dtype, kind, path, instruction_set, threads, seed, **options
):
    generator = torch.Generator().manual_seed(seed)
    shape = (rows * blocks, columns)
    grad = patterned(kind, rows * blocks * columns, generator).view(shape).to(dtype)
    config = PATHS[path] | {"instruction_set": instruction_set, "threads": threads}
    assert_equal_to_the_specification([make_operands(grad, generator)], config, steps=2, blocks=blocks, **options)


def test_native_step_without_momentum():
    # Apart from zeros, whose sign torch's own lerp_ with a weight of 1 gives differently at the end of a tensor.
    grad = torch.randn(5000)
    assert_equal_to_the_specification([make_operands(grad)], SAMPLED, betas=(0.0, 0.9))


@given(
    n=st.integers(1, 30),
    fraction=st.sampled_from([0.01, 0.05, 0.3, 0.5, 0.9, 1.0]),
    score=st.sampled_from(SCORES[:3]),
    decay=st.sampled_from(["selected", "all"]),
    kind=st.sampled_from(["normal", "heavy", "few_values", "sorted"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_native_step_matches_naive_float64(n, fraction, score, decay, kind, seed):
    generator = torch.Generator().manual_seed(seed)
    operands = make_operands(patterned(kind, n, generator).clamp(-1e3, 1e3).float(), generator)
    rule = replace(RULE, fraction=fraction, score=score, decay=decay)
    lists = [tensor.double().tolist() for tensor in operands[:4]]
    algorithm = {key: value for key, value in asdict(rule).items() if key not in ("maximize", "rounding")}
    expected, _, _, moved = naive_step(*lists, 4, **algorithm)
    before = operands.param.clone()
    native_step([operands], rule)
    if len({abs(x) for x in lists[1]}) == n:  # float32 may round different scores to equal ones
        torch.testing.assert_close(operands.param, torch.tensor(expected, dtype=torch.float32), rtol=1e-4, atol=1e-5)
    assert len(moved) == max(1, int(fraction * n + 1e-9))
    assert decay == "all" or (operands.param != before).sum() <= len(moved)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("path", ["default", "sampled", "no_memory_for_the_band"])
def test_non_finite_entries_always_move(path, score, bad):
    generator = torch.Generator().manual_seed(2)
    for n, many in [(70, 5), (40_000, 3), (40_000, 30_000)]:
        grad = torch.randn(n, generator=generator)
        grad[torch.randperm(n, generator=generator)[:many]] = bad
        assert_equal_to_the_specification([make_operands(grad, generator)], PATHS[path], score=score, fraction=0.001)


VIEWS = {
    "transposed": lambda x: x.reshape(40, 30, 50).permute(2, 1, 0),
    "channels_last": lambda x: x.reshape(10, 20, 15, 20).to(memory_format=torch.channels_last),
    "strided": lambda x: x.reshape(30, 2000)[:, ::2],
    "narrow": lambda x: x.reshape(60, 1000)[:, 100:700],
    "reversed_layout": lambda x: torch.empty_strided((100, 600), (1, 100)).copy_(x.reshape(100, 600)),
}


@pytest.mark.parametrize(
    ("view", "score", "dtype"),
    matrix(VIEWS, SCORES, DTYPES, always=lambda view, score, dtype: score == "momentum" or view == "transposed"),
)
def test_native_step_with_any_strides_of_any_operand(view, score, dtype):
    generator = torch.Generator().manual_seed(3)
    shape = VIEWS[view](torch.zeros(60_000)).shape
    for strided, decay in itertools.product(range(16), ["selected", "all"]):
        grad = patterned("few_values", shape.numel(), generator).view(shape).to(dtype)
        operands = make_operands(grad, generator)
        for position, name in enumerate(Operands._fields[:4]):
            if strided >> position & 1:
                other = VIEWS[view](torch.zeros(60_000, dtype=operands[position].dtype))
                operands = operands._replace(**{name: other.copy_(operands[position])})
        tensors = (tensor.clone(memory_format=torch.contiguous_format) for tensor in operands[:5])
        reference, rule = Operands(*tensors, 0), replace(RULE, score=score, decay=decay)
        update(reference, rule)
        native_step([operands], rule, **SAMPLED)
        assert all(torch.equal(bits(a), bits(b)) for a, b in zip(operands[:4], reference[:4], strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_16_bit_numbers_are_all_read_and_rounded_as_by_torch(instruction_set, dtype):
    every = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
    moved = {"weight_decay": 0.37, "lr": 1.0, "decay": "all", "fraction": 1.0}
    tensors = [make_operands(torch.randn(every.shape).to(dtype), start=every)]
    tensors += [make_operands(every, start=every.flip(0))]
    for operands in tensors:
        operands.exp_avg.zero_()
        operands.exp_avg_sq.zero_()
    assert_equal_to_the_specification(tensors, {"instruction_set": instruction_set}, steps=3, **moved)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["normal", "heavy", "sparse", "few_values", "one_huge"])
def test_native_step_of_thirty_million_entries(kind):
    generator = torch.Generator().manual_seed(4)
    tensors = [make_operands(patterned(kind, 30_000_001, generator).float(), generator)]
    for threads in (1, 2):
        assert_equal_to_the_specification(tensors, {"threads": threads})


def test_fraction_one_of_16_bits_is_fused_adamw_with_float32_moments():
    start, grad = torch.randn(300, 32).bfloat16(), torch.randn(300, 32).bfloat16()
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.float())
    ours.grad, theirs.grad = grad, grad.float()
    pair = MoFO([ours], lr=0.1, fraction=1, fused=True), torch.optim.AdamW([theirs], 0.1, weight_decay=0.0, fused=True)
    for optimizer in pair:
        optimizer.step()
    assert torch.equal(ours, theirs.bfloat16())
    for key in ("step", "exp_avg", "exp_avg_sq"):
        assert torch.equal(pair[0].state[ours][key], pair[1].state[theirs][key])


def test_groups_are_updated_in_one_call(monkeypatch):
    calls = []
    step = library.Library.step
    rows = library.TENSOR_SIZE
    monkeypatch.setattr(library.Library, "step", lambda self, t, c: (calls.append(len(t) // rows), step(self, t, c)))
    params = [torch.nn.Parameter(torch.randn(50, 40)) for _ in range(3)]
    optimizer = MoFO([{"params": params[:2], "fraction": 0.5}, {"params": params[2:], "score": "random"}], lr=0.1)
    before = [param.detach().clone() for param in params]
    for param in params:
        param.grad = torch.randn(param.shape)
    optimizer.step()
    assert calls == [3]
    assert [int((a != b).sum()) for a, b in zip(params, before, strict=True)] == [1000, 1000, 300]


def test_grad_scaler_leaves_unscaling_to_the_step():
    generator = torch.Generator().manual_seed(12)
    starts = [torch.randn(200, 300, generator=generator) for _ in range(4)]
    ours, theirs = ([torch.nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    fused, plain = MoFO(ours, lr=0.1, fused=True), MoFO(theirs, lr=0.1, foreach=False)
    for found in (0.0, 1.0, 0.0):
        for p, q in zip(ours, theirs, strict=True):
            q.grad = torch.randn(p.shape, generator=generator)
            p.grad = q.grad * 1024
        fused.found_inf, fused.grad_scale = torch.tensor(found), torch.tensor(1024.0)  # as torch.amp.GradScaler does
        fused.step()
        if not found:
            plain.step()
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)
        assert fused.state[p]["step"] == 2


def test_float64_and_other_unserved_tensors_go_to_plain_torch():
    double = torch.nn.Parameter(torch.randn(30, dtype=torch.float64))
    single = torch.nn.Parameter(torch.randn(30))
    optimizer = MoFO([double, single], lr=1.0, fraction=0.1)
    for param in (double, single):
        param.grad = torch.ones_like(param)
    before = double.detach().clone()
    optimizer.step()
    assert (double != before).sum() == 3
    with pytest.raises(RuntimeError, match=r"fused=True updates float32, bfloat16 and float16 .* got torch\.float64"):
        MoFO([double], fused=True)
    assert not library.can_update(single, torch.randn(30)._neg_view())
    assert not library.can_update(torch.randn(100).as_strided((10, 10), (5, 1)))


@pytest.mark.parametrize("fraction", [0.1, 1.0])
def test_fused_refuses_a_gradient_that_it_cannot_read_and_writes_nothing(fraction):
    params = [torch.nn.Parameter(torch.randn(30)) for _ in range(2)]
    params[0].grad, params[1].grad = torch.ones(30), torch.ones(30)._neg_view()
    before = [param.detach().clone() for param in params]
    with pytest.raises(RuntimeError, match=r"fused=True updates .* got torch\.float32 on cpu of shape \(30,\)"):
        MoFO(params, fused=True, fraction=fraction).step()
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))


def test_overlapping_tensors_are_refused_and_not_written():
    storage = torch.randn(100)
    inside = [torch.nn.Parameter(storage[:60]), torch.nn.Parameter(storage[40:])]
    gradient = torch.nn.Parameter(torch.randn(50))
    gradient.grad = gradient.detach()
    for params in (inside, [gradient]):
        for param in params:
            param.grad = torch.ones_like(param) if param.grad is None else param.grad
        optimizer = MoFO(params, lr=1.0, fraction=0.1)
        before = [param.detach().clone() for param in params]
        with pytest.raises(RuntimeError, match="overlap in memory"):
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
        assert all(not state["exp_avg"].any() and state["step"] == 0 for state in optimizer.state.values())
    apart = [torch.nn.Parameter(storage[:50]), torch.nn.Parameter(storage[50:])]
    for param in apart:
        param.grad = torch.ones_like(param)
    MoFO(apart, fused=True).step()


def test_step_without_memory_changes_nothing():
    tensors = [make_operands(torch.ones(100)), make_operands(torch.zeros(1 << 18))]
    before = copied(tensors[0])
    with pytest.raises(MemoryError, match="nothing was changed"):
        native_step(tensors, RULE, threads=1 << 45)
    assert all(torch.equal(a, b) for a, b in zip(tensors[0][:5], before[:5], strict=True))


def test_threads_are_as_many_as_torch_has(monkeypatch):
    seen = []
    pack = library.CONFIG.pack

    class Spy:
        size = library.CONFIG.size

        def pack(self, *values):
            seen.append(values[0])
            return pack(*values)

    monkeypatch.setattr(library, "CONFIG", Spy())
    param = torch.nn.Parameter(torch.randn(100))
    param.grad = torch.ones(100)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            MoFO([param]).step()
    finally:
        torch.set_num_threads(threads)
    assert seen == [1, 3]


@pytest.mark.parametrize("score", ["momentum", "random"])
def test_table_has_the_rows_of_single_tensors(score):
    rule = replace(RULE, score=score, rounding="stochastic" if score == "random" else "nearest")
    grads = [torch.randn(40), torch.randn(8, 5), torch.randn(5, 8).t(), torch.randn(12).bfloat16(), torch.randn(0)]
    tensors = [make_operands(grad, seed=seed)._replace(step=torch.tensor(seed)) for seed, grad in enumerate(grads)]
    layouts = [MemoryLayout.of(operands, rule) for operands in tensors]
    addresses = [array("Q", [operands[i].data_ptr() for operands in tensors]) for i in range(4)]
    for _ in range(2):
        rows = Table(layouts).rows(addresses, rule, range(5), range(5))
        assert rows.tobytes() == b"".join(pack(tensors, rule, layouts))


@pytest.mark.skipif(not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="not in this version of torch")
def test_describe_tells_tensors_apart():
    matrix, row = torch.randn(6, 6), torch.randn(6)
    different = [
        matrix,
        matrix[1:, 1:],
        matrix[::2],
        matrix.t()[::2],
        matrix.view(2, 3, 6),
        matrix.view(1, 1, 1, 1, 1, 1, 6, 6),
        row,
        row.view(6, 1),
        row.bfloat16(),
        row.half(),
        row.double(),
        row.int(),
        torch.tensor(1.0),
        torch.randn(0, 6),
        torch.nn.Parameter(row[1:]),
    ]
    describe = library.load().describe
    addresses, _ = describe(different)
    assert addresses.tolist() == [tensor.data_ptr() for tensor in different]
    descriptions = [describe([tensor])[1] for tensor in different]
    assert len(set(descriptions)) == len(different)
    assert descriptions[0] == describe([torch.nn.Parameter(torch.zeros(6, 6))])[1]
    assert describe(different)[1] == b"".join(descriptions)
    for other in (torch.eye(3).to_sparse(), torch.empty(3, device="meta")):
        with pytest.raises(RuntimeError):
            describe([row, other])


def test_backends_names_the_library():
    assert mofo.backends()["cpu"].startswith("native (")
    assert library.load().instruction_set in mofo.backends()["cpu"]


WITHOUT = """
import os, sys, warnings
os.environ["MOFO_CPU_LIBRARY"] = sys.argv[1]
import torch
from mofo import MoFO, backends
param = torch.nn.Parameter(torch.zeros(100))
param.grad = torch.arange(100.0)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        optimizer = MoFO([param], lr=1.0, fraction=0.1)
        optimizer.step()
assert len(caught) == 1 and "several times slower" in str(caught[0].message), caught
assert (param != 0).sum() == 10
assert backends()["cpu"].startswith("plain torch: "), backends()
try:
    MoFO([param], fused=True)
except RuntimeError as error:
    assert "fused=True needs the native CPU library" in str(error), error
else:
    raise AssertionError("fused=True without the library")
MoFO([param], foreach=True).step()
"""


@pytest.mark.parametrize("file", ["missing", "broken"])
def test_missing_library_warns_once_and_plain_torch_serves(file, tmp_path):
    path = tmp_path / library.LIBRARY
    if file == "broken":
        path.write_bytes(b"not a library")
    subprocess.run([sys.executable, "-c", WITHOUT, str(path)], check=True)


def test_library_links_neither_torch_nor_openmp():
    loaded = library.load()
    if not sys.platform.startswith("linux"):
        pytest.skip("reads the file format of Linux")
    # names of libraries are strings of their own there; paths of sources in debug information are not
    linked = re.findall(rb"(?<=\0)lib[^\0/]*\.so[^\0/]*(?=\0)", loaded.path.read_bytes())
    assert any(name.startswith(b"libc.so") for name in linked)
    assert not [n for n in linked if n.startswith((b"libtorch", b"libc10", b"libgomp", b"libomp", b"libpython"))]

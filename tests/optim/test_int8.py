"""Moments in 8 bits: the float32 step on dequantised moments, torchao's codes to the bit, checkpoints, shards."""

import copy
import sys
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torchao.optim import AdamW8bit
from torchao.optim.subclass_8bit import OptimState8bit

from mofo import MoFO
from mofo.optim.kernels.plain import int8 as plain
from mofo.optim.kernels.plain.int8 import code_tables
from mofo.optim.rule.types import Operands
from mofo.optim.rule.update import update
from mofo.optim.state import int8
from mofo.optim.state.int8 import dequantise, int8_zeros, is_int8, quantisation_block, quantise_
from mofo.optim.state.moments import MOMENTS, new_state
from reference.back_ends import BACK_ENDS
from reference.operands import RULE, through_a_file


def make(dtype=torch.float32, shapes=((64, 128), (48, 192), (70,)), **options):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in shapes]
    return params, MoFO(params, **({"lr": 1e-2, "fraction": 0.1, "state_dtype": "int8"} | options))


def train(params, optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        optimizer.step()


def assert_same_moments(a, b):
    assert is_int8(a) == is_int8(b)
    if is_int8(a):
        assert torch.equal(a.codes, b.codes)
        assert torch.equal(a.scale, b.scale)
        assert torch.equal(a.qmap, b.qmap)
        assert (a.signed, a.block_size, a.dtype) == (b.signed, b.block_size, b.dtype)
    else:
        assert torch.equal(a, b)


def assert_same(params, optimizer, others, other):
    for a, b in zip(params, others, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(optimizer.state[a]["step"], other.state[b]["step"])
        for key in MOMENTS:
            assert_same_moments(optimizer.state[a][key], other.state[b][key])


@pytest.mark.parametrize("implementation", BACK_ENDS)
@pytest.mark.parametrize("score", ["momentum", "gradient", "momentum_over_rms", "random"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_int8_step_is_the_specification_between_dequantise_and_quantise(implementation, score, dtype):
    params, optimizer = make(dtype, score=score, weight_decay=0.1, **implementation)
    train(params, optimizer, range(3))
    for step in range(3, 6):
        expected = [param.detach().clone() for param in params]
        moments = []
        for param, result in zip(params, expected, strict=True):
            state = optimizer.state[param]
            values = [
                state[key].dequantize() if is_int8(state[key]) else state[key].clone()  # torchao's own
                for key in MOMENTS
            ]
            generator = torch.Generator().manual_seed(step)
            for earlier in params[: len(moments) + 1]:
                grad = torch.randn(earlier.shape, generator=generator).to(dtype)
            operands = Operands(result, grad, *values, state["step"].clone(), state.get("seed", 0))
            update(operands, replace(RULE, fraction=0.1, score=score))
            kept = [copy.deepcopy(state[key]) for key in MOMENTS]
            for target, value in zip(kept, values, strict=True):
                target.copy_(value)  # torchao quantises
            moments.append(kept)
        train(params, optimizer, [step])
        for param, result, kept in zip(params, expected, moments, strict=True):
            assert torch.equal(param, result)
            for key, moment in zip(MOMENTS, kept, strict=True):
                assert_same_moments(optimizer.state[param][key], moment)
    assert [is_int8(optimizer.state[param]["exp_avg"]) for param in params] == [True, True, False]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.sampled_from([64, 128, 256]),
    st.integers(-40, 30),
    st.floats(0.1, 6.0),
    st.integers(64, 100),
)
def test_quantise_equals_torchao_to_the_bit(seed, signed, block, exponent, spread, rows):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, block, generator=generator)
    values *= torch.randn(rows, block, generator=generator).mul_(spread).exp_()
    values *= 2.0**exponent
    values[torch.rand(rows, block, generator=generator) < 0.1] = 0
    values = values if signed else values.square()
    own, theirs = (int8_zeros(torch.empty(rows, block), block, signed=signed) for _ in range(2))
    quantise_(own, values)
    theirs.copy_(values)
    assert_same_moments(own, theirs)
    assert torch.equal(dequantise(own), theirs.dequantize())
    again = dequantise(own)  # many of these lie on a code
    quantise_(own, again)
    theirs.copy_(again)
    assert_same_moments(own, theirs)


@pytest.mark.parametrize("signed", [True, False])
def test_quantise_has_torchaos_boundary_between_any_two_codes(signed):
    _, bounds = code_tables(signed, torch.device("cpu"))
    near = (bounds[:-1].view(torch.int32)[:, None] + torch.arange(-40, 41)).int().view(torch.float32)
    values = torch.zeros(255, 128)
    values[:, :81] = near.clamp(-1, 1)
    values[:, 127] = 1  # so that the scale is 1
    own, theirs = (int8_zeros(values, 128, signed=signed) for _ in range(2))
    quantise_(own, values)
    theirs.copy_(values)
    assert_same_moments(own, theirs)
    assert set(range(256)) - set(own.codes.view(-1).tolist()) == set()


def test_quantise_in_pieces_gives_the_same_codes(monkeypatch):
    values = torch.randn(100, 192)
    whole, cut = (int8_zeros(values, 64, signed=True) for _ in range(2))
    plain.quantise(whole, values)
    monkeypatch.setattr(plain, "PIECE", {"cpu": 64 * 7})
    plain.quantise(cut, values)
    assert_same_moments(whole, cut)
    read = torch.empty(100, 192)
    plain.dequantise(cut, read)
    assert torch.equal(read, whole.dequantize())


def test_column_major_parameter_is_updated_like_a_row_major_one():
    params, optimizer = make(shapes=[(64, 128)])
    others, other = make(shapes=[(64, 128)])
    others[0].data = others[0].data.t().contiguous().t()
    train(params, optimizer, range(3))
    train(others, other, range(3))
    assert not others[0].is_contiguous()
    assert_same(params, optimizer, others, other)


def test_non_finite_value_shows_in_its_quantisation_block_alone():
    params, optimizer = make(shapes=[(64, 128)])
    train(params, optimizer, range(1))
    params[0].grad = torch.ones(64, 128)
    params[0].grad[3, 5] = torch.nan
    optimizer.step()
    values = dequantise(optimizer.state[params[0]]["exp_avg"])
    assert values[3].isnan().all()
    assert values.isfinite().sum() == 63 * 128


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fraction_one_is_close_to_torchaos_adamw(dtype):
    """Not to the bit: its order of operations is another, and a value between two codes may go either way."""
    shapes = [(64, 256), (16, 512)]
    params, optimizer = make(dtype, shapes, fraction=1.0, weight_decay=0.1)
    others = [torch.nn.Parameter(param.detach().clone()) for param in params]
    other = AdamW8bit(others, lr=1e-2, weight_decay=0.1)
    with torch.compiler.set_stance("force_eager"):
        for step in range(4):
            train(params, optimizer, [step])
            train(others, other, [step])
    for a, b in zip(params, others, strict=True):
        assert is_int8(optimizer.state[a]["exp_avg"])
        assert is_int8(other.state[b]["exp_avg"])
        close = torch.isclose(a, b, rtol=1e-2 if dtype is torch.bfloat16 else 1e-4, atol=1e-5)
        assert close.float().mean() > 0.99
        torch.testing.assert_close(a, b, rtol=0.02, atol=2e-3)
    loaded = MoFO([param.detach().clone().requires_grad_() for param in others], state_dtype="int8")
    loaded.load_state_dict(through_a_file(other.state_dict()))  # its checkpoints load
    for a, b in zip(loaded.param_groups[0]["params"], others, strict=True):
        assert torch.equal(loaded.state[a]["exp_avg"].codes, other.state[b]["exp_avg"].codes)


@pytest.mark.parametrize("implementation", BACK_ENDS)
@pytest.mark.parametrize("fraction", [0.1, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumed_run_equals_uninterrupted_run_to_the_bit(implementation, fraction, dtype):
    whole, optimizer = make(dtype, fraction=fraction, **implementation)
    train(whole, optimizer, range(6))

    first, stopped = make(dtype, fraction=fraction, **implementation)
    train(first, stopped, range(3))
    saved = through_a_file({"params": [p.detach() for p in first], "optimizer": stopped.state_dict()})
    second, resumed = make(dtype, fraction=fraction, **implementation)
    with torch.no_grad():
        for param, value in zip(second, saved["params"], strict=True):
            param.copy_(value)
    resumed.load_state_dict(saved["optimizer"])
    train(second, resumed, range(3, 6))
    assert_same(whole, optimizer, second, resumed)


def test_state_dict_copy_continues_alike_and_shares_no_memory():
    params, optimizer = make()
    train(params, optimizer, range(2))
    others, other = make()
    with torch.no_grad():
        for param, value in zip(others, params, strict=True):
            param.copy_(value)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    before = dequantise(optimizer.state[params[0]]["exp_avg"])
    train(others, other, range(2, 4))
    assert torch.equal(dequantise(optimizer.state[params[0]]["exp_avg"]), before)
    train(params, optimizer, range(2, 4))
    assert_same(params, optimizer, others, other)


def test_deep_copy_continues_alike():
    params, optimizer = make()
    train(params, optimizer, range(2))
    others, other = copy.deepcopy((params, optimizer))
    train(params, optimizer, range(2, 4))
    train(others, other, range(2, 4))
    assert_same(params, optimizer, others, other)


def test_checkpoints_convert_between_float32_and_int8():
    params, optimizer = make(state_dtype="float32")
    train(params, optimizer, range(3))
    rounded = MoFO(params, state_dtype="int8")
    rounded.load_state_dict(through_a_file(optimizer.state_dict()))
    back = MoFO(params, state_dtype="float32")
    back.load_state_dict(through_a_file(rounded.state_dict()))
    assert [o.param_groups[0]["state_dtype"] for o in (optimizer, rounded, back)] == ["float32", "int8", "float32"]
    for param in params:
        for key in MOMENTS:
            kept, moment = optimizer.state[param][key], rounded.state[param][key]
            if is_int8(moment):
                expected = OptimState8bit.zeros(param.shape, key == "exp_avg", moment.block_size)
                expected.copy_(kept)
                assert torch.equal(moment.codes, expected.codes)
                assert torch.equal(moment.scale, expected.scale)
            assert back.state[param][key].dtype == torch.float32
            assert not is_int8(back.state[param][key])
            assert torch.equal(back.state[param][key], dequantise(moment))


def test_adamw_continues_from_an_int8_checkpoint_through_float32():
    params, optimizer = make()
    train(params, optimizer, range(2))
    float32 = MoFO(params)
    float32.load_state_dict(optimizer.state_dict())
    adamw = torch.optim.AdamW(params)
    adamw.load_state_dict(through_a_file(float32.state_dict()))
    train(params, adamw, range(1))


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((64, 128), 128),
        ((49152, 576), 64),
        ((8, 32, 64), 256),
        ((16, 4096), 256),
        ((63, 64), None),  # fewer than 4096
        ((1 << 16,), None),
        ((4096, 32), None),
        ((64, 3, 7, 7), None),
        ((), None),
        ((0, 64), None),
        ((4096, 0), None),
    ],
)
def test_quantisation_blocks_lie_within_rows(shape, block):
    assert quantisation_block(torch.empty(shape, device="meta")) == block


def test_int8_moments_take_2_bytes_an_entry_and_the_scales():
    params, optimizer = make(shapes=[(1024, 1024), (1024, 576)])
    train(params, optimizer, range(1))
    for param, block in zip(params, (256, 64), strict=True):
        kept = [optimizer.state[param][key] for key in MOMENTS]
        held = sum(t.numel() * t.itemsize for moment in kept for t in (moment.codes, moment.scale, moment.qmap))
        assert held == param.numel() * (2 + 2 * 4 / block) + 2 * 256 * 4


def test_state_dtype_of_groups_can_differ():
    params, _ = make(shapes=[(64, 128), (64, 128)])
    optimizer = MoFO([{"params": params[:1], "state_dtype": "int8"}, {"params": params[1:]}], fraction=0.1)
    train(params, optimizer, range(2))
    assert [is_int8(optimizer.state[param]["exp_avg"]) for param in params] == [True, False]


def test_state_dtype_refuses_bad_values(monkeypatch):
    params, _ = make()
    with pytest.raises(ValueError, match=r"state_dtype must be one of \('float32', 'int8'\), got 'int4'"):
        MoFO(params, state_dtype="int4")
    double = torch.nn.Parameter(torch.ones(64, 64, dtype=torch.float64))
    with pytest.raises(TypeError, match="float64"):
        MoFO([double], state_dtype="int8")
    optimizer = MoFO(params, state_dtype="int8")
    with pytest.raises(TypeError, match="float64"):
        optimizer.add_param_group({"params": double})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": double, "state_dtype": "float32"})
    int8.moment_class.cache_clear()
    monkeypatch.setitem(sys.modules, "torchao.optim.subclass_8bit", None)
    with pytest.raises(ImportError, match=r"pip install 'mofo\[int8\]'"):
        MoFO(params, state_dtype="int8")
    MoFO(params)


def test_refused_step_writes_nothing():
    params, optimizer = make()
    train(params, optimizer, range(1))
    before = [param.detach().clone() for param in params]
    kept = [dequantise(optimizer.state[param]["exp_avg"]).clone() for param in params]
    params[2].grad = torch.ones(70).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    for param, value, moment in zip(params, before, kept, strict=True):
        assert torch.equal(param, value)
        assert torch.equal(dequantise(optimizer.state[param]["exp_avg"]), moment)


# Sharded parameters: the state is a DTensor whose shards are quantised, and torch.distributed.checkpoint moves it.

SHAPES = {"even": (64, 128), "uneven": (33, 128), "one row": (1, 4096), "small": (8, 16)}


def _sharded(name, mesh, placement):
    from torch.distributed.tensor import distribute_tensor

    whole = torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(len(name)))
    return whole, distribute_tensor(whole, mesh, [placement])


def _values(name, key):
    values = torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(len(name + key)))
    return values if key == "exp_avg" else values.square()


def _save_sharded(rank, world, folder):
    """On each rank: states of sharded parameters are set to values and saved."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (world,))
    saved = {}
    for name in SHAPES:
        _, param = _sharded(name, mesh, Shard(0))
        state = new_state(param, "int8")
        for key in MOMENTS:
            assert isinstance(state[key], DTensor)
            assert state[key].shape == param.shape
            assert state[key].placements == param.placements
            assert is_int8(state[key]) == (name != "small" and param.to_local().numel() > 0)
            values = distribute_tensor(_values(name, key), mesh, [Shard(0)]).to_local()
            assert dequantise(state[key]).shape == values.shape
            if is_int8(state[key]):
                quantise_(state[key], values)
            else:
                dequantise(state[key]).copy_(values)
            saved[f"{name}.{key}"] = state[key]
        saved[f"{name}.step"] = state["step"] + 7
    dcp.save(saved, checkpoint_id=folder)


def _load_sharded(rank, world, folder):
    """On each rank: the states are loaded, and are shards of what a single process would have."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (world,))
    loaded = {}
    for name in SHAPES:
        _, param = _sharded(name, mesh, Shard(0))
        state = new_state(param, "int8")
        loaded |= {f"{name}.{key}": state[key] for key in ("step", *MOMENTS)}
    dcp.load(loaded, checkpoint_id=folder)
    for name in SHAPES:
        assert loaded[f"{name}.step"] == 7
        whole, _ = _sharded(name, mesh, Shard(0))
        for key, moment in new_state(whole, "int8").items():
            if key == "step":
                continue
            if is_int8(moment):
                quantise_(moment, _values(name, key))
            else:
                moment.copy_(_values(name, key))
            expected = distribute_tensor(dequantise(moment), mesh, [Shard(0)]).to_local()
            assert torch.equal(dequantise(loaded[f"{name}.{key}"]), expected), (name, key)


def _process(rank, world, store, work, folder):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        work(rank, world, folder)
    finally:
        dist.destroy_process_group()


def _run(world, work, folder, tmp_path):
    store = tmp_path / f"store-{work.__name__}-{world}"
    arguments = (world, str(store), work, str(folder))
    if world == 1:
        _process(0, *arguments)
    else:
        torch.multiprocessing.spawn(_process, arguments, nprocs=world)


needs_distributed = pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")


@needs_distributed
@pytest.mark.parametrize(
    ("saving", "loading"),
    [(1, 1), *(pytest.param(*worlds, marks=pytest.mark.processes) for worlds in [(2, 2), (2, 1), (1, 2)])],
)
def test_sharded_state_survives_a_checkpoint_on_any_number_of_ranks(saving, loading, tmp_path):
    _run(saving, _save_sharded, tmp_path / "checkpoint", tmp_path)
    _run(loading, _load_sharded, tmp_path / "checkpoint", tmp_path)


@needs_distributed
def test_shard_that_cuts_a_quantisation_block_is_refused():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=6)
    try:
        mesh = init_device_mesh("cpu", (2, 3))
        whole = torch.ones(64, 384)
        assert quantisation_block(whole) == 128
        for placements in ([Shard(0), Shard(0)], [Shard(0), Shard(1)], [Replicate(), Replicate()]):
            assert quantisation_block(distribute_tensor(whole, mesh, placements)) == 128
        for placements in ([Shard(1), Shard(0)], [Shard(1), Shard(1)]):
            with pytest.raises(NotImplementedError, match="cut its quantisation blocks of 128"):
                quantisation_block(distribute_tensor(whole, mesh, placements))
    finally:
        dist.destroy_process_group()

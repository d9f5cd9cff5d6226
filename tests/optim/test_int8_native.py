"""Moments in 8 bits in the native library equal plain torch and torchao to the bit, on each instruction set."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mofo import MoFO
from mofo.optim import step as steps
from mofo.optim.kernels import Execution
from mofo.optim.kernels.cpu import int8 as native
from mofo.optim.kernels.cpu import library
from mofo.optim.kernels.cpu.int8 import MARGIN, UNITS, ZERO, code_lines
from mofo.optim.kernels.cpu.library import NativeConfig
from mofo.optim.kernels.cpu.step import NativeStep
from mofo.optim.kernels.plain import int8 as plain
from mofo.optim.kernels.plain.int8 import code_tables
from mofo.optim.rule.scores import SCORES
from mofo.optim.rule.update import update
from mofo.optim.state.int8 import int8_zeros
from mofo.optim.state.moments import MOMENTS
from reference.back_ends import needs_native
from reference.matrix import matrix
from reference.operands import RULE, bits, copied, make_operands
from reference.patterns import KINDS, patterned

pytest.importorskip("torchao")
pytestmark = needs_native

INSTRUCTION_SETS = [] if isinstance(library.load(), str) else list(library.load().kernels)
SAMPLED = {"small": 64, "sample_rate": 4}
PATHS = {
    "default": {},
    "sampled": SAMPLED,
    "bracket_of_one_key": SAMPLED | {"spread": 0.0},
    "no_memory_for_the_band": SAMPLED | {"band_share": 1 << 40},
}


def zeros(shape, block, signed):
    return int8_zeros(torch.empty(shape), block, signed=signed)


def assert_same_codes(ours, theirs):
    assert torch.equal(ours.codes, theirs.codes)
    assert torch.equal(bits(ours.scale), bits(theirs.scale))


def assert_equal_to_torchao(values, block, signed, **config):
    """Round values in all three ways, and read them again."""
    ours, reference, theirs = (zeros(values.shape, block, signed) for _ in range(3))
    native.quantise(ours, values, NativeConfig(**config))
    plain.quantise(reference, values)
    theirs.copy_(values)
    assert_same_codes(ours, theirs)
    assert_same_codes(reference, theirs)
    read, expected = torch.empty_like(values), torch.empty_like(values)
    native.dequantise(ours, read, NativeConfig(**config))
    plain.dequantise(ours, expected)
    assert torch.equal(bits(read), bits(expected))
    assert torch.equal(bits(read), bits(theirs.dequantize()))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 40),
    signed=st.booleans(),
    block=st.sampled_from([64, 128, 256]),
    rows=st.integers(1, 40),
    exponent=st.integers(-140, 120),
    spread=st.floats(0.1, 9.0),
    special=st.sampled_from([0.0, -0.0, torch.nan, torch.inf, -torch.inf, 3e38, -3e38, 1e-45, 1e-12]),
    share=st.sampled_from([0.0, 1e-3, 0.5, 1.0]),
    instruction_set=st.sampled_from(INSTRUCTION_SETS or [None]),
    threads=st.integers(1, 3),
)
def test_native_codes_equal_torchao(
    seed, signed, block, rows, exponent, spread, special, share, instruction_set, threads
):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, 3 * block, generator=generator)
    values *= torch.randn(values.shape, generator=generator).mul_(spread).exp_()
    values *= 2.0**exponent
    values[torch.rand(values.shape, generator=generator) < share] = special
    config = {"instruction_set": instruction_set, "threads": threads}
    assert_equal_to_torchao(values, block, signed, **config)  # negative values in an unsigned map too
    assert_equal_to_torchao(values.abs(), block, signed, **config)
    again = zeros(values.shape, block, signed)
    again.copy_(values)
    assert_equal_to_torchao(again.dequantize(), block, signed, **config)  # many lie on a code


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.7, 3.0, 1.1754942e-38 * 2**40, 1e38])
def test_native_codes_change_where_torchaos_do(instruction_set, signed, scale):
    _, bounds = code_tables(signed, torch.device("cpu"))
    near = (bounds[:-1].view(torch.int32)[:, None] + torch.arange(-40, 41)).int().view(torch.float32).clamp(-1, 1)
    values = torch.zeros(255, 128)
    values[:, :81] = near * scale  # the quotient is rounded to some of these
    values[:, 127] = scale
    assert_equal_to_torchao(values, 128, signed, instruction_set=instruction_set)


@pytest.mark.parametrize("signed", [True, False])
def test_lines_are_right_wherever_they_decide(signed):
    """They rise with the magnitude, so their rank is right but within half a unit of the bounds if it is at these."""
    _, bounds = code_tables(signed, torch.device("cpu"))
    lines = code_lines(signed)
    slope, offset, limit = lines[:48].view(3, 16).view(torch.float32).double()
    line, following = lines[48:].view(2, 32)
    assert (slope >= 0).all()
    positive = bounds[ZERO[signed] : 255]
    negative = -bounds[: ZERO[signed]].flip(0)
    for magnitudes in (positive, negative):
        steps_apart = torch.arange(-40, 41)[:, None]
        near = (magnitudes.view(torch.int32) + steps_apart).int()
        index = (near >> 23) & 31
        beyond = near - following[index]
        chosen = line[index] + (beyond >= MARGIN)
        magnitude = near.view(torch.float32).double()
        rank = torch.minimum(slope[chosen] * magnitude + offset[chosen], limit[chosen])
        left_out = (beyond >= 0) & (beyond < 2 * MARGIN)
        expected = UNITS * torch.arange(1, len(magnitudes) + 1).expand_as(rank)
        reached = (steps_apart >= 0).expand_as(rank)
        # a unit on each side is left to the tables; half of it is for the rounding of the line
        assert (left_out | ((rank - expected).abs() < 0.5) | ((rank >= expected) == reached)).all()


def make_int8(generator, shape, dtype, kind, block):
    """Operands whose moments are in 8 bits, and the same with these as float32."""
    grad = patterned(kind, torch.Size(shape).numel(), generator).view(shape).to(dtype)
    operands = make_operands(grad, generator)
    kept = []
    for key in MOMENTS:
        moment = zeros(shape, block, key == "exp_avg")
        moment.copy_(getattr(operands, key))
        kept.append(moment)
    wide = copied(operands._replace(exp_avg=kept[0].dequantize(), exp_avg_sq=kept[1].dequantize()), seed=operands.seed)
    return operands._replace(exp_avg=kept[0], exp_avg_sq=kept[1]), wide


def assert_step_equals_specification(pairs, rule, **config):
    native_step = NativeStep(NativeConfig(**config))
    for ours, theirs in pairs:
        assert native_step.serves_int8(ours, Execution())
        native_step.add_int8(ours, rule)
        update(theirs, rule)
    native_step.run()
    for ours, theirs in pairs:
        assert torch.equal(bits(ours.param), bits(theirs.param))
        assert ours.step == theirs.step
        for key in MOMENTS:
            moment = getattr(ours, key)
            expected = zeros(moment.shape, moment.block_size, moment.signed)
            plain.quantise(expected, getattr(theirs, key))
            assert_same_codes(moment, expected)


@pytest.mark.parametrize(
    ("instruction_set", "score", "path"),
    matrix(
        INSTRUCTION_SETS,
        SCORES,
        PATHS,
        always=lambda isa, score, path: path == "sampled" and (score == "momentum" or isa == INSTRUCTION_SETS[0]),
    ),
)
def test_int8_step_equals_specification_on_every_pattern_and_path(instruction_set, score, path):
    generator = torch.Generator().manual_seed(0)
    config = PATHS[path] | {"instruction_set": instruction_set, "threads": 1}
    for kind, fraction in itertools.product(KINDS, (1e-6, 0.05, 0.6)):
        pair = make_int8(generator, (70, 192), torch.float32, kind, 64)
        assert_step_equals_specification([pair], replace(RULE, score=score, fraction=fraction), **config)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 7),
    columns=st.sampled_from([64, 192, 256, 320, 512]),
    blocks=st.integers(1, 3),
    fraction=st.floats(1e-4, 1.0),
    score=st.sampled_from(SCORES),
    decay=st.sampled_from(["selected", "all"]),
    maximize=st.booleans(),
    rounding=st.sampled_from(["nearest", "stochastic"]),
    betas=st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.0, 0.9, 0.999])),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    kind=st.sampled_from(KINDS),
    path=st.sampled_from(sorted(PATHS)),
    instruction_set=st.sampled_from(INSTRUCTION_SETS or [None]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1 << 40),
)
def test_int8_step_equals_specification_with_any_options(
    rows, columns, blocks, dtype, kind, path, instruction_set, threads, seed, **options
):
    generator = torch.Generator().manual_seed(seed)
    block = {64: 64, 192: 64, 256: 256, 320: 64, 512: 256}[columns]
    pair = make_int8(generator, (rows * blocks, columns), dtype, kind, block)
    config = PATHS[path] | {"instruction_set": instruction_set, "threads": threads}
    assert_step_equals_specification([pair], replace(RULE, blocks=blocks, **options), **config)


@pytest.mark.parametrize("own_threads", [True, False])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, None])
def test_int8_step_between_threads(own_threads, bad):
    """The blocks of large tensors are shared between threads, those of small ones are not."""
    generator = torch.Generator().manual_seed(1)
    pairs = [make_int8(generator, shape, torch.float32, "heavy", 64) for shape in ((700, 576), (3, 192), (300, 320))]
    for ours, theirs in pairs:
        if bad is not None:
            ours.grad[1, 70] = theirs.grad[1, 70] = bad
    assert_step_equals_specification(pairs, RULE, threads=3, own_threads=own_threads)


def test_codes_that_overlap_another_tensor_are_refused_and_not_written():
    (operands, _), (other, _) = (
        make_int8(torch.Generator().manual_seed(2), (64, 64), torch.float32, "normal", 64) for _ in range(2)
    )
    other.exp_avg.codes = operands.exp_avg.codes
    before = operands.exp_avg.codes.clone()
    native_step = NativeStep()
    for each in (operands, other):
        native_step.add_int8(each, RULE)
    with pytest.raises(RuntimeError, match="overlap in memory"):
        native_step.run()
    assert torch.equal(operands.exp_avg.codes, before)


@pytest.mark.parametrize(
    ("options", "transposed", "dtype", "widened"),
    [
        ({}, False, torch.float32, 0),
        ({"fused": True}, False, torch.bfloat16, 0),
        ({"fraction": 1.0}, False, torch.bfloat16, 0),
        ({"fraction": 1.0}, False, torch.float32, 1),  # torch's own AdamW
        ({"foreach": True}, False, torch.float32, 1),
        ({"fused": False}, False, torch.float32, 1),
        ({}, True, torch.float32, 1),
    ],
)
def test_moments_become_float32_only_where_the_library_does_not_make_the_step(
    monkeypatch, options, transposed, dtype, widened
):
    seen = []
    original = steps.float32_moments
    monkeypatch.setattr(steps, "float32_moments", lambda operands: (seen.append(operands), original(operands))[1])
    param = torch.nn.Parameter(torch.randn(128, 128).to(dtype))
    if transposed:
        param.data = param.data.t()
    optimizer = MoFO([param], state_dtype="int8", **{"fraction": 0.1} | options)
    param.grad = torch.randn(128, 128).to(dtype)
    optimizer.step()
    assert len(seen) == widened

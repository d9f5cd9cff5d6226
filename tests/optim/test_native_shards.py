"""The native library makes each phase of a sharded step as plain torch does, in one process and to the bit."""

import pytest
import torch

from mofo.optim.distributed.layout import Layout, RowRange
from mofo.optim.distributed.shards import Shards
from mofo.optim.distributed.shards_native import NativeShards
from mofo.optim.kernels.plain.threshold import INFINITY
from mofo.optim.rule.types import Operands, Rule
from reference.back_ends import needs_native

pytestmark = needs_native

# Rows, columns and blocks of what is here of each tensor: many entries, fewer than a cache line, several blocks
SHAPES = [(300, 500, 1), (1, 5, 1), (400, 190, 4), (31, 17, 31), (2, 70_000, 2), (64, 33, 1)]
OTHERS = 2  # all processes have so many times the entries that this one has
DEFAULTS = {"lr": 0.1, "fraction": 0.05, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0, "blocks": 1}
DEFAULTS |= {"score": "momentum", "decay": "selected", "maximize": False, "rounding": "nearest"}
BINS = 2048


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def draw(kind, dtype):
    """Operands of each shape."""
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for rows, columns, _ in SHAPES:
        param, grad, exp_avg = (torch.randn(rows, columns, generator=generator) for _ in range(3))
        grad, exp_avg = (x * torch.randn(rows, 1, generator=generator).exp() for x in (grad, exp_avg))
        if kind == "ties":
            grad, exp_avg = grad.sign(), exp_avg.sign()
        if kind == "sparse":
            keep = torch.rand(rows, columns, generator=generator) < 0.02
            grad, exp_avg = grad * keep, exp_avg * keep
        if kind == "not finite":
            exp_avg.view(-1)[::7] = float("inf")
        drawn.append(
            Operands(param.to(dtype), grad.to(dtype), exp_avg, exp_avg.square(), torch.tensor(4.0), 0),
        )
    return drawn


def make(kind_of_shards, operands, rule, workspaces):
    """The shards of all tensors, and the number of their blocks."""
    shards, first = kind_of_shards(workspaces), 0
    for own, (rows, columns, blocks) in zip(operands, SHAPES, strict=True):
        indices = torch.arange(rows), torch.arange(columns)
        ranges = (RowRange(0, rows, blocks, 0),)
        layout = Layout((0,), indices, (columns, 1), ranges, blocks, rows * columns, rows * columns)
        shards.add(own, rule, layout, ranges[0], OTHERS * rows * columns // blocks, first)
        first += blocks
    return shards, first


def copies(operands):
    return [own._replace(**{key: getattr(own, key).clone() for key in own._fields[:4]}) for own in operands]


def keys_of(operands, rule):
    """The keys of each block, sorted, once the moments are updated."""
    after = copies(operands)
    shards, _ = make(Shards, after, rule, {})
    shards.update_moments(None, None)
    return [
        keys.sort().values
        for shard, (_, _, blocks) in zip(shards._shards, SHAPES, strict=True)
        for keys in torch.cat([shard._keys(*tile) for tile in shard._tiles()], dim=1).view(blocks, -1).long()
    ]


def compare(operands, rule, misled, threads):
    """Two steps of the same shards by both back ends; the second one in memory that the first one has used."""
    plain_operands, native_operands, workspaces = copies(operands), copies(operands), {}
    for _ in range(2):
        sorted_keys = keys_of(plain_operands, rule)
        plain, blocks = make(Shards, plain_operands, rule, {})
        native, _ = make(NativeShards, native_operands, rule, workspaces)
        least, shift = (127 - 48) << 23, 18
        samples = [torch.zeros(blocks, BINS, dtype=torch.int64) for _ in range(2)]
        for shards, counts in zip((plain, native), samples, strict=True):
            shards.count_sample(least, shift, counts)
        assert torch.equal(samples[0].sum(dim=1), samples[1].sum(dim=1))
        assert (samples[0] - samples[1]).abs().sum() <= samples[0].sum() // 1000  # but for the last bits of keys

        ranks = [max(1, int(len(keys) * rule.fraction)) for keys in sorted_keys]
        wanted = torch.stack([keys[-rank] for keys, rank in zip(sorted_keys, ranks, strict=True)])
        width = 1 << 18
        low, high = (wanted - width).clamp_(min=0), (wanted + width).clamp_(max=INFINITY[torch.int32])
        if misled == "too high":
            low, high = wanted + 1, wanted + width
        if misled == "too low":
            low, high = (wanted - width).clamp_(min=0), (wanted - 1).clamp_(min=0)
        for shards in (plain, native):
            shards.update_moments(low, high)
        everything = torch.zeros_like(low), torch.full_like(low, INFINITY[torch.int32])
        for from_, to in ((low, high), everything, (wanted, wanted), (wanted - wanted % 64, wanted | 63)):
            shift = ((to - from_).double().frexp().exponent.long() - 11).clamp_(min=0)
            counts = [torch.zeros(blocks, BINS + 1, dtype=torch.int64) for _ in range(2)]
            for shards, own in zip((plain, native), counts, strict=True):
                shards.count_keys(from_, to, shift, own)
            assert torch.equal(*counts)

        for block in range(blocks):
            places = [torch.cat(shards.tied_places(block, int(wanted[block]))) for shards in (plain, native)]
            assert torch.equal(*places)
        ties = torch.tensor(
            [rank - int((keys > key).sum()) for keys, key, rank in zip(sorted_keys, wanted, ranks, strict=True)]
        )
        for shards in (plain, native):
            shards.move(wanted, ties)
            shards.finish()
        for expected, found in zip(plain_operands, native_operands, strict=True):
            for x, y in zip(expected[:4], found[:4], strict=True):
                bits = torch.int16 if x.itemsize == 2 else torch.int32
                same = x.contiguous().view(bits) == y.contiguous().view(bits)
                assert (same | (x.isnan() & y.isnan())).all()
        assert any(
            not torch.equal(own.param, start.param) for own, start in zip(native_operands, operands, strict=True)
        )


@pytest.mark.parametrize("misled", ["no", "too high", "too low"])
@pytest.mark.parametrize("kind", ["dense", "ties", "sparse", "not finite"])
def test_phases_equal_plain_torch(kind, misled, threads):
    compare(draw(kind, torch.float32), Rule(**DEFAULTS), misled, threads)


@pytest.mark.parametrize(
    ("changed", "dtype"),
    [
        ({"score": "gradient", "maximize": True}, torch.float32),
        ({"score": "momentum_over_rms", "weight_decay": 0.1}, torch.bfloat16),
        ({"decay": "all", "weight_decay": 0.1}, torch.float32),
        ({"fraction": 0.6}, torch.float16),
        ({"fraction": 1e-6}, torch.bfloat16),
    ],
)
def test_phases_with_other_options(changed, dtype, threads):
    compare(draw("dense", dtype), Rule(**DEFAULTS | changed), "no", threads)


def test_phases_of_tensors_that_are_not_contiguous(threads):
    operands = [Operands(*(x.T.contiguous().T for x in own[:4]), *own[4:]) for own in draw("dense", torch.float32)]
    assert not operands[0].param.is_contiguous()
    plain_operands = copies(operands)
    for kind, own in ((Shards, plain_operands), (NativeShards, operands)):
        shards, blocks = make(kind, own, Rule(**DEFAULTS), {})
        shards.count_sample(0, 20, torch.zeros(blocks, BINS, dtype=torch.int64))
        bounds = torch.zeros(blocks, dtype=torch.int64), torch.full((blocks,), INFINITY[torch.int32])
        shards.update_moments(*bounds)
        shards.move(torch.full((blocks,), 1 << 29), torch.full((blocks,), 1 << 30))
        shards.finish()
    for expected, found in zip(plain_operands, operands, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(expected[:4], found[:4], strict=True))

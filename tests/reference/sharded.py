"""Sharded parameters held against whole ones, in several processes."""

import functools

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

from mofo import MoFO
from mofo.optim.rule.scores import SCORES
from mofo.optim.state.int8 import dequantise

SHAPES = [(7, 5), (8, 6), (12, 3, 4), (1, 5), (5,), (4,), (64, 33), (4, 1), (0, 3), (132, 70)]
LAYOUTS = {
    "one process": ((1,), (Shard(0),)),
    "FSDP, 2": ((2,), (Shard(0),)),
    "FSDP, 3": ((3,), (Shard(0),)),
    "FSDP, 4": ((4,), (Shard(0),)),
    "TP by columns, 2": ((2,), (Shard(1),)),
    "TP by columns, 3": ((3,), (Shard(1),)),
    "replicated": ((2,), (Replicate(),)),
    "HSDP": ((2, 2), (Replicate(), Shard(0))),
    "FSDP x TP by rows": ((2, 2), (_StridedShard(0, split_factor=2), Shard(0))),
    "FSDP x TP by columns": ((2, 2), (Shard(0), Shard(1))),
    "rows twice": ((2, 2), (Shard(0), Shard(0))),
    "columns, then rows": ((2, 2), (Shard(1), Shard(0))),
}


@functools.cache  # each mesh has threads of its own
def make_mesh(shape, device="cpu"):
    """A mesh of the first processes; the others must take part in making it."""
    return DeviceMesh(device, torch.arange(torch.Size(shape).numel()).view(shape))


def spread(tensor, mesh, placements):
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


def fitting(shapes, placements, blocks=1):
    dims = [placement.dim for placement in placements if not placement.is_replicate()]
    return [shape for shape in shapes if all(dim < len(shape) for dim in dims) and shape[0] % blocks == 0]


def draw(kind, shape, generator, dtype):
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "ties":
        grad = grad.sign()
    if kind == "sparse":
        grad *= torch.rand(shape, generator=generator) < 0.05
    if kind == "one huge":
        grad.view(-1)[:1] *= 1e6
    if kind == "not finite":
        grad.view(-1)[::7] = torch.tensor(float("inf"))
    return grad.to(dtype)


def compare(
    mesh_shape,
    placements,
    options,
    kinds,
    dtype=torch.float32,
    shapes=SHAPES,
    steps=3,
    whole_options=None,
    device="cpu",
):
    """Steps of the same tensors, whole and spread; raises where a bit differs.

    ``whole_options`` are more options of the optimizer of whole tensors. Returns the other one.
    """
    mesh = make_mesh(mesh_shape, device)
    if mesh.get_coordinate() is None:
        return None
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    starts = [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)
        for shape in fitting(shapes, placements, options.get("blocks", 1))
    ]
    whole = [nn.Parameter(start.clone()) for start in starts]
    parts = [nn.Parameter(spread(start.clone(), mesh, placements)) for start in starts]
    one = MoFO(whole, lr=1e-2, **options | (whole_options or {}))
    several = MoFO(parts, lr=1e-2, **options)
    for _ in range(steps):
        for kind, p, q in zip(kinds * len(whole), whole, parts, strict=False):
            p.grad = draw(kind, p.shape, generator, dtype).to(device)
            q.grad = spread(p.grad.clone(), mesh, placements)
        one.step()
        several.step()
    for p, q in zip(whole, parts, strict=True):
        where = f"{tuple(p.shape)} {dtype} {options} {kinds}"
        assert_equal(p.detach(), q.detach().full_tensor(), where)
        for key in ("exp_avg", "exp_avg_sq"):
            moment = several.state[q][key]
            assert moment.placements == q.placements, where
            values = DTensor.from_local(
                dequantise(moment), mesh, placements, run_check=False, shape=p.shape, stride=p.stride()
            )
            assert_equal(dequantise(one.state[p][key]), values.full_tensor(), f"{key} of {where}")
        assert int(several.state[q]["step"]) == steps
    return several


def assert_equal(expected, found, where):
    """To the bit; but one NaN is as good as another."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[expected.element_size()]
    same = expected.contiguous().view(bits) == found.contiguous().view(bits)
    assert (same | (expected.isnan() & found.isnan())).all(), where


def draw_case(rng):
    """Options, a type and patterns of gradients, at random."""
    options = {
        "fraction": rng.choice([0.01, 0.1, 0.5, 0.99]),
        "blocks": rng.choice([1, 1, 2, 4]),
        "score": rng.choice(SCORES),
        "decay": rng.choice(["selected", "all"]),
        "weight_decay": rng.choice([0.0, 0.1]),
        "maximize": rng.random() < 0.5,
        "rounding": rng.choice(["nearest", "stochastic"]),
    }
    dtype = rng.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64])
    if dtype is torch.float16:
        options["rounding"] = "nearest"
    return options, dtype, rng.sample(["dense", "ties", "sparse", "one huge", "not finite"], 3)

"""Flat pieces of several tensors: found wherever they come from, refused, and filtered as they are only on demand."""

import copy
import importlib.util
import itertools
import pickle
import re

import pytest
import torch
from torch import nn

from mofo import MoFO
from reference.back_ends import BACK_ENDS
from reference.processes import Processes

REFUSED = r"flat piece of several tensors.* FSDP2 .*`fsdp_version: 2`.*on_flat=\"per_piece\""


@pytest.fixture
def two(tmp_path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with Processes(2, tmp_path) as processes:
        yield processes


def a_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 4))


def matrices_and_vectors(model):
    return [{"params": [p for p in model.parameters() if (p.dim() > 1) == matrices]} for matrices in (True, False)]


def flat_piece(params, rank, world_size):
    """What a process has of a group under ZeRO 1 and 2: a part of all its tensors end to end, with a gradient."""
    flat = torch.cat([param.detach().flatten() for param in params])
    piece = flat.chunk(world_size)[rank].clone().requires_grad_()
    piece.grad = torch.randn(piece.shape, generator=torch.Generator().manual_seed(rank))
    return piece


def put_pieces_in_place(optimizer, rank=0, world_size=2):
    for group in optimizer.param_groups:
        group["params"] = [flat_piece(group["params"], rank, world_size)]
    return [group["params"][0] for group in optimizer.param_groups]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_flat_pieces_are_refused_and_not_written(world_size):
    optimizer = MoFO(matrices_and_vectors(a_model()))
    pieces = put_pieces_in_place(optimizer, 0, world_size)
    before = [piece.detach().clone() for piece in pieces]
    with pytest.raises(NotImplementedError, match=REFUSED):
        optimizer.step()
    groups = optimizer.param_groups
    for group in groups:  # ZeRO shows the optimizer one group at a time
        optimizer.param_groups = [group]
        with pytest.raises(NotImplementedError, match=REFUSED):
            optimizer.step()
    assert all(torch.equal(piece, old) for piece, old in zip(pieces, before, strict=True))
    assert len(optimizer.state) == 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_copied_optimizer_refuses_flat_pieces(copied):
    optimizer = MoFO(a_model().parameters())
    put_pieces_in_place(optimizer)
    optimizer = copied(optimizer)
    (piece,) = optimizer.param_groups[0]["params"]
    piece.grad = torch.ones_like(piece)  # which is not pickled
    with pytest.raises(NotImplementedError, match=REFUSED):
        optimizer.step()


def marked(name):
    param = nn.Parameter(torch.ones(8))
    setattr(param, name, True)
    return param


@pytest.mark.parametrize("mark", ["ds_id", "_fsdp_flattened"])
def test_marked_parameters_are_refused_at_construction_and_step(mark):
    with pytest.raises(NotImplementedError, match=REFUSED):
        MoFO([marked(mark)])
    optimizer = MoFO([nn.Parameter(torch.ones(8))])
    with pytest.raises(NotImplementedError, match=REFUSED):
        optimizer.add_param_group({"params": [marked(mark)]})
    assert len(optimizer.param_groups) == 1
    param = optimizer.param_groups[0]["params"][0] = marked(mark)
    param.grad = torch.ones(8)
    with pytest.raises(NotImplementedError, match=REFUSED):
        optimizer.step()
    MoFO([marked(mark)], on_flat="per_piece")


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_per_piece_selects_within_each_piece(back_end):
    groups = matrices_and_vectors(a_model())
    options = {"lr": 0.1, "fraction": 0.1, **back_end}
    optimizer = MoFO(groups, on_flat="per_piece", **options)
    pieces = put_pieces_in_place(optimizer)
    alone = [piece.detach().clone().requires_grad_() for piece in pieces]
    reference = MoFO(alone, **options)
    for _ in range(3):
        for piece, param in zip(pieces, alone, strict=True):
            param.grad = piece.grad
        optimizer.step()
        reference.step()
    assert all(torch.equal(piece, param) for piece, param in zip(pieces, alone, strict=True))


def test_on_flat_of_a_group_allows_it_for_that_group_alone():
    groups = matrices_and_vectors(a_model())
    groups[0]["on_flat"] = "per_piece"
    optimizer = MoFO(groups)
    put_pieces_in_place(optimizer)
    with pytest.raises(NotImplementedError, match=r"shape \(50,\)"):
        optimizer.step()
    assert len(optimizer.state) == 0


def test_blocks_are_not_cut_out_of_a_flat_piece():
    optimizer = MoFO(nn.Linear(16, 32, bias=False).parameters(), blocks=4, on_flat="per_piece")
    put_pieces_in_place(optimizer)
    with pytest.raises(ValueError, match="blocks=4 cannot be cut"):
        optimizer.step()


def test_on_flat_refuses_other_values():
    with pytest.raises(ValueError, match="on_flat must be one of"):
        MoFO([nn.Parameter(torch.ones(3))], on_flat="shard")


def test_checkpoint_neither_allows_flat_pieces_nor_remembers_shapes():
    optimizer = MoFO(a_model().parameters(), on_flat="per_piece")
    put_pieces_in_place(optimizer)
    optimizer.step()
    state = optimizer.state_dict()
    assert not [key for key in state["param_groups"][0] if "shape" in key]
    other = MoFO(a_model().parameters())
    put_pieces_in_place(other)
    other.load_state_dict(state)
    with pytest.raises(NotImplementedError, match=REFUSED):
        other.step()


def test_parameters_of_the_same_shape_may_be_exchanged_left_out_and_added():
    model = a_model()
    optimizer = MoFO(model.parameters())
    optimizer.param_groups[0]["params"] = [nn.Parameter(param.detach().clone()) for param in model.parameters()][1:]
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(77))]})
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.ones_like(param)
    optimizer.step()
    assert all(optimizer.state[param]["step"] == 1 for group in optimizer.param_groups for param in group["params"])


def resize(layer):
    """Put a larger table in the place of an embedding's, as for tokens that were added."""
    layer.weight.data = torch.cat([layer.weight.data, torch.zeros(2, 4)])
    layer.weight.grad = torch.rand(12, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_matrix_that_was_resized_before_the_first_step_is_no_flat_piece(back_end):
    layers = [nn.Embedding(10, 4), nn.Embedding(10, 4)]
    layers[1].load_state_dict(layers[0].state_dict())
    whole = MoFO(layers[0].parameters(), lr=0.1, fraction=1, weight_decay=0.01, **back_end)
    adamw = torch.optim.AdamW(layers[1].parameters(), lr=0.1, weight_decay=0.01, **back_end)
    for layer, optimizer in zip(layers, (whole, adamw), strict=True):
        resize(layer)
        optimizer.step()
    assert torch.equal(layers[0].weight, layers[1].weight)

    layer = nn.Embedding(10, 4)
    optimizer = MoFO(layer.parameters(), fraction=0.25, **back_end)
    resize(layer)
    before = layer.weight.detach().clone()
    optimizer.step()
    assert int((layer.weight != before).sum()) == 12


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_matrix_that_was_resized_after_a_step_is_refused_and_not_written(back_end):
    layer = nn.Embedding(10, 4)
    optimizer = MoFO(layer.parameters(), **back_end)
    layer.weight.grad = torch.ones(10, 4)
    optimizer.step()
    resize(layer)
    before = layer.weight.detach().clone()
    with pytest.raises(ValueError, match=r"shape \(12, 4\) and its moments \(10, 4\): it was resized after its first"):
        optimizer.step()
    assert torch.equal(layer.weight, before)


def step_after_fully_shard():
    """The step of an optimizer whose parameters were exchanged for sharded ones after its construction."""
    from torch.distributed.fsdp import fully_shard

    model = a_model()
    optimizer = MoFO(model.parameters(), lr=0.1)
    fully_shard(model)
    optimizer.param_groups[0]["params"] = list(model.parameters())  # as accelerate does
    error = attempt(model, optimizer)
    return error, [param.detach().full_tensor() for param in model.parameters()]


@pytest.mark.processes
def test_fsdp2_parameters_are_not_flat(two):
    for error, params in two.run(step_after_fully_shard):
        assert error is None
        assert not any(torch.equal(*pair) for pair in zip(params, a_model().parameters(), strict=True))


def attempt(model, optimizer, steps=2):
    """Train; return what refused it."""
    try:
        for step in range(steps):
            inputs = torch.randn(2, 16, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()
    except NotImplementedError as error:
        return str(error)
    return None


def train_with_fsdp1():
    """For both kinds of parameters and both orders of wrapping and construction: what refused, and with per_piece."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    said = {}
    for use_orig_params in (False, True):
        for on_flat in ("refuse", "per_piece"):
            model = FullyShardedDataParallel(a_model(), device_id=torch.device("cpu"), use_orig_params=use_orig_params)
            try:
                optimizer = MoFO(model.parameters(), lr=0.1, on_flat=on_flat)
            except NotImplementedError as error:
                said[use_orig_params, on_flat, "built after"] = str(error)
            else:
                said[use_orig_params, on_flat, "built after"] = attempt(model, optimizer)
    for on_flat in ("refuse", "per_piece"):
        model = a_model()
        optimizer = MoFO(model.parameters(), lr=0.1, on_flat=on_flat)
        model = FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)
        said[True, on_flat, "built before"] = attempt(model, optimizer)
    return said


@pytest.mark.processes
def test_fsdp1_is_refused_on_every_process_unless_allowed(two):
    for said in two.run(train_with_fsdp1):
        assert len(said) == 6
        for (use_orig_params, on_flat, built), error in said.items():
            if on_flat == "per_piece":
                assert error is None
            else:
                assert re.search(REFUSED, error), (use_orig_params, built)


def train_with_deepspeed():
    """For each stage, type and ``on_flat``: what refused, and the shapes that were filtered."""
    import deepspeed

    said = {}
    for stage, dtype, on_flat in itertools.product(range(4), (torch.float32, torch.bfloat16), ("refuse", "per_piece")):
        model = a_model()
        optimizer = MoFO(matrices_and_vectors(model), lr=0.1, fraction=0.1, on_flat=on_flat)
        config = {
            "train_micro_batch_size_per_gpu": 2,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {"stage": stage},
            "bf16": {"enabled": dtype == torch.bfloat16},
        }
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        error = None
        try:
            for step in range(2):
                inputs = torch.randn(2, 16, generator=torch.Generator().manual_seed(step)).to(dtype)
                engine.backward(engine(inputs).float().square().mean())
                engine.step()
        except NotImplementedError as caught:
            error = str(caught)
        said[stage, dtype, on_flat] = error, sorted(tuple(param.shape) for param in optimizer.state)
    return said


@pytest.mark.processes
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_deepspeed_zero_is_refused_unless_allowed(two):
    for said in two.run(train_with_deepspeed):
        assert len(said) == 16
        for (stage, dtype, on_flat), (error, filtered) in said.items():
            if stage == 0:  # nothing is flat
                assert (error, len(filtered)) == (None, 6), dtype
            elif on_flat == "per_piece":
                assert (error, filtered) == (None, [(50,), (320,)]), (stage, dtype)
            else:
                assert re.search(REFUSED, error), (stage, dtype)
                assert filtered == [], (stage, dtype)

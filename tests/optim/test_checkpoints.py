"""Checkpoints: to the bit, from AdamW, and never half loaded."""

import copy
import pickle

import pytest
import torch

from mofo import MoFO
from mofo.optim.rule.scores import SCORES
from reference.operands import through_a_file


def make(dtype=torch.float32, **options):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 80), torch.nn.ReLU(), torch.nn.Linear(80, 8)).to(dtype)
    return model, MoFO(model.parameters(), **({"lr": 1e-2, "fraction": 0.1} | options))


def train(model, optimizer, steps):
    dtype = next(model.parameters()).dtype
    for step in steps:
        inputs = torch.randn(4, 64, generator=torch.Generator().manual_seed(step)).to(dtype)
        optimizer.zero_grad()
        model(inputs).float().square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("score", SCORES)
def test_resumed_run_equals_uninterrupted_run_to_the_bit(dtype, score):
    whole, optimizer = make(dtype, score=score)
    train(whole, optimizer, range(6))

    first, stopped = make(dtype, score=score)
    train(first, stopped, range(3))
    saved = through_a_file({"model": first.state_dict(), "optimizer": stopped.state_dict()})
    torch.manual_seed(99)  # another process has another seed
    second, resumed = make(dtype, score=score)
    torch.manual_seed(99)
    second.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(second, resumed, range(3, 6))

    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[a][key], resumed.state[b][key])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_moments_are_float32_after_loading(dtype):
    model, optimizer = make(dtype)
    train(model, optimizer, range(2))
    other, loaded = make(dtype)
    loaded.load_state_dict(optimizer.state_dict())
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        for key in ("exp_avg", "exp_avg_sq"):
            assert optimizer.state[a][key].dtype == loaded.state[b][key].dtype == torch.float32
            assert torch.equal(optimizer.state[a][key], loaded.state[b][key])


@pytest.mark.parametrize("implementation", [{"foreach": False}, {"foreach": True}, {"fused": True}])
def test_adamw_checkpoint_loads_and_continues(implementation):
    model, _ = make()
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0, **implementation)
    train(model, adamw, range(3))
    other, mofo = make(fraction=1.0)
    other.load_state_dict(model.state_dict())
    mofo.load_state_dict(through_a_file(adamw.state_dict()))
    assert mofo.param_groups[0]["fraction"] == 1.0
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0, foreach=False)
    adamw.load_state_dict(through_a_file(mofo.state_dict()))  # and back
    train(model, adamw, range(3, 6))
    train(other, mofo, range(3, 6))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_load_refuses_amsgrad_and_other_shapes_and_loads_nothing():
    model, _ = make()
    amsgrad = torch.optim.AdamW(model.parameters(), amsgrad=True)
    train(model, amsgrad, range(1))
    _, mofo = make()
    with pytest.raises(ValueError, match="amsgrad"):
        mofo.load_state_dict(amsgrad.state_dict())
    model, optimizer = make()
    train(model, optimizer, range(1))
    broken = copy.deepcopy(optimizer.state_dict())
    broken["state"][3]["exp_avg"] = torch.zeros(3)
    with pytest.raises(ValueError, match="exp_avg has shape"):
        mofo.load_state_dict(broken)
    broken = copy.deepcopy(optimizer.state_dict())
    broken["param_groups"][0]["fraction"] = 7.0
    with pytest.raises(ValueError, match="fraction"):
        mofo.load_state_dict(broken)
    assert len(mofo.state) == 0
    assert mofo.param_groups[0]["fraction"] == 0.1


def test_checkpoint_without_newer_options_gets_their_defaults():
    model, optimizer = make(decay="all")
    train(model, optimizer, range(1))
    old = optimizer.state_dict()
    for key in ("decay", "blocks", "score"):
        del old["param_groups"][0][key]
    _, loaded = make(decay="all")
    loaded.load_state_dict(old)
    assert loaded.param_groups[0]["decay"] == "all"
    restored = pickle.loads(pickle.dumps(optimizer))
    state = restored.__getstate__()
    del state["param_groups"][0]["score"]
    restored.__setstate__(state)
    assert restored.param_groups[0]["score"] == "momentum"


def test_copied_optimizers_continue_alike():
    model, optimizer = make(score="random")
    train(model, optimizer, range(2))
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    train(model, optimizer, range(2, 4))
    train(twin, twin_optimizer, range(2, 4))
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_state_is_made_at_the_first_step_for_the_present_parameter():
    model, optimizer = make()
    assert len(optimizer.state) == 0
    replaced = torch.nn.Parameter(model[0].weight.detach().clone())  # as accelerate does for sharded models
    optimizer.param_groups[0]["params"][0] = replaced
    replaced.grad = torch.ones_like(replaced)
    optimizer.step()
    assert set(optimizer.state) == {replaced}

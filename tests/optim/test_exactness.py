"""The optimizer against a naive float64 version, torch's AdamW and the official formula."""

import itertools

import pytest
import torch
from official import official_step

from mofo import MoFO
from mofo.optim.rule.scores import SCORES, noise, noise_key
from reference.back_ends import BACK_ENDS
from reference.naive import naive_step

OPTIONS = {"lr": 1e-2, "fraction": 0.3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}


def gradients(shape, steps, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=dtype, generator=generator) for _ in range(steps)]


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize(("score", "decay", "blocks"), list(itertools.product(SCORES, ["selected", "all"], [1, 3])))
def test_step_matches_naive_float64(score, decay, blocks, foreach):
    shape, seed = (6, 7), 0
    torch.manual_seed(seed)
    start = torch.randn(shape, dtype=torch.float64)
    param = torch.nn.Parameter(start.clone())
    optimizer = MoFO([param], **OPTIONS, score=score, decay=decay, blocks=blocks, foreach=foreach)
    theta, m, v = start.flatten().tolist(), [0.0] * 42, [0.0] * 42
    for t, grad in enumerate(gradients(shape, 5), 1):
        before = param.detach().clone()
        param.grad = grad.clone()
        optimizer.step()
        noises = None
        if score == "random":
            key = noise_key(optimizer.state[param]["seed"], t)
            noises = noise(torch.arange(param.numel()), key, param.dtype).tolist()
        theta, m, v, moved = naive_step(
            theta, grad.flatten().tolist(), m, v, t, **OPTIONS, blocks=blocks, score=score, decay=decay, noise=noises
        )
        torch.testing.assert_close(param.detach().flatten(), torch.tensor(theta, dtype=torch.float64))
        if decay == "selected":
            assert set((param != before).flatten().nonzero().flatten().tolist()) == moved
    torch.testing.assert_close(optimizer.state[param]["exp_avg"].flatten(), torch.tensor(m, dtype=torch.float64))
    torch.testing.assert_close(optimizer.state[param]["exp_avg_sq"].flatten(), torch.tensor(v, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("lr", [1e-3, torch.tensor(1e-3)], ids=["float", "tensor"])
@pytest.mark.parametrize("back_end", [*BACK_ENDS, pytest.param({}, id="default")])
def test_fraction_one_is_adamw_to_the_bit(dtype, weight_decay, maximize, lr, back_end):
    if dtype is torch.float64 and back_end.get("fused"):
        pytest.skip("the native library has no float64")
    shapes = [(), (5,), (64, 33), (3, 5, 7), (128, 256)]
    starts = [torch.randn(shape, dtype=dtype) for shape in shapes]
    ours, theirs = ([torch.nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    options = {"lr": lr, "weight_decay": weight_decay, "maximize": maximize, **back_end}
    if isinstance(lr, torch.Tensor) and back_end.get("foreach"):
        options["foreach"] = False  # torch's multi-tensor AdamW wants capturable=True for a tensor lr
    mofo, adamw = MoFO(ours, fraction=1, **options), torch.optim.AdamW(theirs, **options)
    for step in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = gradients(a.shape, 1, dtype, step)[0]
            b.grad = a.grad.clone()
        mofo.step()
        adamw.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
        for key in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(mofo.state[a][key], adamw.state[b][key])


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("shape", [(40, 50), (256, 512)])
def test_step_matches_official_formula(shape, back_end):
    start = torch.randn(shape)
    param, official = torch.nn.Parameter(start.clone()), start.clone()
    m, v = torch.zeros(shape), torch.zeros(shape)
    options = {"lr": 1e-3, "fraction": 0.05, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}
    optimizer = MoFO([param], **options, decay="all", **back_end)
    for t, grad in enumerate(gradients(shape, 6, torch.float32), 1):
        param.grad = grad.clone()
        optimizer.step()
        official_step(official, grad, m, v, t, **options)
    torch.testing.assert_close(param.detach(), official, rtol=1e-6, atol=1e-7)

"""What is accepted, what is refused, and that a refused step leaves everything untouched."""

import pytest
import torch

from mofo import MoFO
from reference.back_ends import BACK_ENDS

NAN = float("nan")


def a_param(shape=(4, 3), **kwargs):
    param = torch.nn.Parameter(torch.ones(shape, **kwargs))
    param.grad = torch.ones_like(param)
    return param


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fraction": 0.0}, ValueError, r"fraction must be in \(0, 1\]"),
        ({"fraction": 1.01}, ValueError, "fraction"),
        ({"fraction": NAN}, ValueError, "fraction"),
        ({"fraction": "0.1"}, TypeError, "fraction"),
        ({"lr": -1.0}, ValueError, "lr must be at least 0"),
        ({"lr": NAN}, ValueError, "lr"),
        ({"lr": torch.ones(2)}, ValueError, "one element"),
        ({"betas": (1.0, 0.9)}, ValueError, r"betas\[0\]"),
        ({"betas": (0.9, NAN)}, ValueError, r"betas\[1\]"),
        ({"betas": 0.9}, TypeError, "betas must be two numbers"),
        ({"betas": (torch.tensor(0.9), 0.99)}, TypeError, r"betas\[0\] must be a number, in \[0, 1\); got tensor"),
        ({"eps": -1e-8}, ValueError, "eps"),
        ({"eps": NAN}, ValueError, "eps"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay"),
        ({"weight_decay": NAN}, ValueError, "weight_decay"),
        ({"blocks": 0}, ValueError, "blocks must be at least 1"),
        ({"blocks": 2.0}, TypeError, "blocks must be an integer"),
        ({"blocks": 3}, ValueError, r"blocks=3 does not divide the first dimension .*\(4, 3\)"),
        ({"score": "size"}, ValueError, "score must be one of"),
        ({"decay": "none"}, ValueError, "decay must be one of"),
        ({"rounding": "up"}, ValueError, "rounding must be one of"),
        ({"capturable": True, "fused": False}, RuntimeError, "capturable=True needs the fused back end"),
        ({"fused": True, "foreach": True}, RuntimeError, "together"),
        ({"capturable": True}, NotImplementedError, "capturable=True is not supported"),
        ({"differentiable": True}, NotImplementedError, "differentiable=True is not supported"),
    ],
)
def test_options_are_checked_at_construction_and_per_group(options, error, message):
    with pytest.raises(error, match=message):
        MoFO([a_param()], **options)
    with pytest.raises(error, match=message):
        MoFO([{"params": [a_param()], **options}])
    optimizer = MoFO([a_param()])
    with pytest.raises(error, match=message):
        optimizer.add_param_group({"params": [a_param()], **options})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("param", "error", "message"),
    [
        (torch.ones(3, dtype=torch.complex64, requires_grad=True), TypeError, "complex64"),
        (torch.nn.Parameter(torch.ones(1).expand(4)), RuntimeError, "share one memory location"),
        (a_param(dtype=torch.float16), TypeError, "rounding='stochastic' is for bfloat16"),
    ],
)
def test_parameters_that_cannot_be_updated_are_refused(param, error, message):
    with pytest.raises(error, match=message):
        MoFO([param], rounding="stochastic")


def test_sparse_gradient_is_refused_and_nothing_is_written():
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    first = a_param()
    before = first.detach().clone()
    optimizer = MoFO([first, embedding.weight], lr=1.0)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse=False"):
        optimizer.step()
    assert torch.equal(first, before)
    assert len(optimizer.state) == 0


def test_options_changed_badly_stop_the_step_before_it_writes():
    params = [a_param(), a_param()]
    optimizer = MoFO([{"params": [param]} for param in params], lr=1.0)
    optimizer.param_groups[1]["fraction"] = 2.0
    with pytest.raises(ValueError, match="fraction"):
        optimizer.step()
    assert all(torch.equal(param, torch.ones(4, 3)) for param in params)


def test_options_can_be_set_per_group():
    params = [a_param((8,)) for _ in range(4)]
    optimizer = MoFO(
        [
            {"params": [params[0]], "fraction": 1.0},
            {"params": [params[1]], "blocks": 4},
            {"params": [params[2]], "lr": 0.0},
            {"params": [params[3]], "maximize": True},
        ],
        lr=0.5,
        fraction=0.25,
    )
    optimizer.step()
    assert [int((param != 1).sum()) for param in params] == [8, 4, 0, 2]
    assert params[3].max() > 1 > params[0].max()


def test_named_parameters_closures_and_parameters_without_gradients():
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    unused = torch.nn.Parameter(torch.ones(3))
    optimizer = MoFO([*model.named_parameters(), ("unused", unused)], lr=0.1, fraction=0.5)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(1, 3)).sum()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert isinstance(first, torch.Tensor)
    assert optimizer.step(closure) < first
    assert torch.equal(unused, torch.ones(3))
    assert set(optimizer.state) == {model.weight}


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (1, 1)])
@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_step_of_the_smallest_tensors(shape, back_end):
    param = a_param(shape)
    optimizer = MoFO([param], lr=0.5, fraction=0.01, **back_end)
    optimizer.step()
    assert int((param != 1).sum()) == min(param.numel(), 1)


def test_expanded_gradient():
    param = torch.nn.Parameter(torch.zeros(4, 3))
    param.grad = torch.ones(1, 3).expand(4, 3)
    MoFO([param], lr=1.0, fraction=0.5).step()
    assert param.detach().flatten().nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_schedulers_change_float_and_tensor_rates():
    for lr in (0.1, torch.tensor(0.1)):
        param = a_param()
        optimizer = MoFO([param], lr=lr, fraction=1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
        optimizer.step()
        scheduler.step()
        assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.05)
        optimizer.param_groups[0]["lr"] = 0.0  # a scheduler may put a float in place of the tensor
        before = param.detach().clone()
        optimizer.step()
        assert torch.equal(param, before)


@pytest.mark.parametrize("fraction", [0.15, 1.0])
@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_grad_scaler_leaves_out_a_step_with_infinities(back_end, fraction):
    param = a_param()
    optimizer = MoFO([param], lr=0.1, fraction=fraction, **back_end)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    param.grad = None
    scaler.scale((param * torch.inf).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(param, torch.ones(4, 3))
    assert all(state["step"] == 0 and not state["exp_avg"].any() for state in optimizer.state.values())
    assert scaler.get_scale() == 2.0
    param.grad = None
    scaler.scale(param.sum()).backward()
    scaler.step(optimizer)
    assert int((param != 1).sum()) == int(12 * fraction)
    assert optimizer.state[param]["exp_avg"].max() == pytest.approx(0.1)  # the gradient was unscaled


def test_gradient_accumulation_equals_one_large_batch():
    torch.manual_seed(0)
    batches = torch.randn(4, 2, 3, dtype=torch.float64)
    results = []
    for parts in (1, 4):
        torch.manual_seed(1)
        model = torch.nn.Linear(3, 2).double()
        optimizer = MoFO(model.parameters(), lr=0.1, fraction=0.5)
        for part in batches.view(parts, -1, 3):
            (model(part).square().sum() / 4).backward()
        optimizer.step()
        results.append(model.weight.detach())
    torch.testing.assert_close(*results)


def test_gradient_clipping_comes_before_the_step():
    param = a_param()
    param.grad *= 100
    optimizer = MoFO([param], lr=0.1)
    torch.nn.utils.clip_grad_norm_([param], 1.0)
    optimizer.step()
    assert optimizer.state[param]["exp_avg"].norm() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64, torch.complex64])
def test_frozen_parameters_may_be_of_any_type(dtype):
    frozen = torch.nn.Parameter(torch.ones(4, 2, dtype=dtype), requires_grad=False)
    trained = a_param()
    optimizer = MoFO([frozen, trained], lr=0.1, blocks=2)
    optimizer.step()
    assert torch.equal(frozen, torch.ones(4, 2, dtype=dtype))
    assert not torch.equal(trained, torch.ones(4, 3))
    again = MoFO([frozen, trained], lr=0.1)
    again.load_state_dict(optimizer.state_dict())
    again.step()

"""Nothing that a step has found out outlives what it follows from.

Each change between steps is made to two equal optimizers. One of them forgets before every step what it knows of the
tensors, as after being pickled. Both must then have the same bits, or raise the same error.
"""

import copy
import pickle
import weakref

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import mofo.optim.optimizer
from mofo import MoFO
from mofo.optim.kernels.cpu.library import Library
from reference.back_ends import needs_native

BACK_ENDS = [
    pytest.param({}, id="default"),
    pytest.param({"foreach": True}, id="foreach", marks=pytest.mark.full),
    pytest.param({"foreach": False}, id="plain", marks=pytest.mark.full),
    pytest.param({"fused": True}, id="native", marks=[pytest.mark.full, needs_native]),
    pytest.param({"fraction": 1.0}, id="adamw", marks=pytest.mark.full),
    pytest.param({"score": "random"}, id="random", marks=pytest.mark.full),
]


class World:
    """An optimizer of a few small tensors in two groups, and its gradients, which are the same in every world."""

    def __init__(self, options):
        self.random = torch.Generator().manual_seed(0)
        shapes = [(6, 6), (4, 9), (6, 6), (12,), (4, 3)]
        self.params = [torch.nn.Parameter(self.numbers(shape)) for shape in shapes]
        self.params[4].data = self.params[4].data.bfloat16()
        groups = [{"params": self.params[:2]}, {"params": self.params[2:], "lr": 0.05, "rounding": "stochastic"}]
        self.optimizer = MoFO(groups, **{"lr": 0.1, "fraction": 0.3, **options})
        self.new_gradients()
        for _ in range(2):
            self.optimizer.step()
            self.new_gradients()

    def numbers(self, shape):
        return torch.randn(shape, generator=self.random)

    def new_gradients(self):
        for param in self.params:
            if param.requires_grad and not param.is_meta:
                param.grad = self.numbers(param.shape).to(param.dtype)

    def forget(self):
        self.optimizer.__setstate__({})

    def step(self):
        """Make a step; return what it raised."""
        try:
            self.optimizer.step()
        except Exception as error:  # whatever it is, both worlds must have it
            return type(error), str(error)
        return None

    def contents(self):
        """Everything that a step may write, to the bit."""
        found = []
        for param in self.params:
            state = self.optimizer.state.get(param, {})
            for tensor in (param.detach(), *(value for value in state.values() if isinstance(value, torch.Tensor))):
                found.append(str(tensor.dtype) if tensor.is_meta else (tensor.shape, _bytes(tensor)))
        return found


def _bytes(tensor):
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):  # 8 bits
        return _bytes(tensor.codes), _bytes(tensor.scale)
    return tensor.contiguous().view(-1).view(torch.uint8).tolist() if tensor.numel() else []


class Subclass(torch.Tensor):
    pass


def _set_data(data, index=0, *, grad=True):
    """A change of a parameter's memory, and of its gradient to match."""

    def change(world):
        param = world.params[index]
        if grad:
            param.grad = None
        param.data = data(param.data)
        if grad:
            param.grad = torch.ones_like(param)

    return change


def _set_grad(grad, index=0):
    def change(world):
        param = world.params[index]
        if param.grad is not None:
            param.grad = grad(param.grad)

    return change


def _set_grad_data(grad, index=0):  # past the checks of the attribute
    def change(world):
        if world.params[index].grad is not None:
            world.params[index].grad.data = grad(world.params[index].grad.data)

    return change


def _set_state(key, value, index=0):
    def change(world):
        state = world.optimizer.state[world.params[index]]
        if key in state:
            state[key] = value(state[key])

    return change


def _set_option(value, key, group=0):
    def change(world):
        world.optimizer.param_groups[group][key] = value

    return change


def _delete_state(key, index=0):
    return lambda world: world.optimizer.state[world.params[index]].pop(key, None)


def _transposed(x):
    return x.t().clone(memory_format=torch.contiguous_format).t() if x.dim() == 2 else x


def _negative_view(x):
    return torch.complex(torch.zeros_like(x), -x).conj().imag if x.dtype is torch.float32 else x


def _add_group(world):
    world.params.append(torch.nn.Parameter(world.numbers((6, 6))))
    world.params[-1].grad = world.numbers((6, 6))
    world.optimizer.add_param_group({"params": [world.params[-1]], "score": "gradient"})


def _regroup(world):
    first, second = world.optimizer.param_groups[:2]
    second["params"].insert(0, first["params"].pop())


def _swap(world):
    for group in world.optimizer.param_groups[:1]:
        group["params"].reverse()


def _freeze(world):
    world.params[0].requires_grad_(False)
    world.params[0].grad = None


def _without_gradients(world):
    for param in world.params:
        param.grad = None


def _thaw(world):
    world.params[0].requires_grad_(True)


def _share_memory(world):
    world.params[2].data = world.params[0].data


def _mark_as_flat(world):
    world.params[0].ds_id = 0


def _load(world):
    world.optimizer.load_state_dict(copy.deepcopy(world.optimizer.state_dict()))


def _load_adamw(world):
    theirs = torch.optim.AdamW([{"params": group["params"]} for group in world.optimizer.param_groups])
    theirs.step()
    world.optimizer.load_state_dict(theirs.state_dict())


def _pickle(world):
    grads = [param.grad for param in world.params]
    world.optimizer, world.params = pickle.loads(pickle.dumps((world.optimizer, world.params)))
    for param, grad in zip(world.params, grads, strict=True):
        param.grad = grad


def _deepcopy(world):
    grads = [param.grad for param in world.params]
    world.optimizer, world.params = copy.deepcopy((world.optimizer, world.params))
    for param, grad in zip(world.params, grads, strict=True):
        param.grad = grad


def _to_meta(world):
    """Put a parameter on another device in the place of one; torch does not let its data change to another."""
    old = world.params[0]
    new = world.params[0] = torch.nn.Parameter(old.detach().to("meta"))
    new.grad = torch.empty_like(new)
    for group in world.optimizer.param_groups:
        group["params"][:] = [new if param is old else param for param in group["params"]]
    if old in world.optimizer.state:
        world.optimizer.state[new] = world.optimizer.state.pop(old)


def _resize(world):
    world.params[0].data.resize_(2, 6)
    world.params[0].grad = None
    world.params[0].grad = torch.ones(world.params[0].shape, dtype=world.params[0].dtype)


OPTIONS = {
    "lr": [0.2, torch.tensor(0.2), -1.0, torch.tensor([0.1, 0.1]), "high"],
    "fraction": [0.5, 1, 1.0, 0, float("nan")],
    "betas": [(0.5, 0.9), (1.0, 0.9), 0.9],
    "eps": [1e-3, -1.0],
    "weight_decay": [0.1, float("inf")],
    "blocks": [2, 5, True, torch.tensor(1)],
    "score": ["gradient", "momentum_over_rms", "random", "size"],
    "decay": ["all", "none"],
    "maximize": [True],
    "rounding": ["stochastic", "nearest", "up"],
    "state_dtype": ["int8", "int9"],
    "foreach": [True, False],
    "fused": [True, False],
    "on_flat": ["per_piece", "accept"],
    "capturable": [True],
    "differentiable": [True],
    "group_as_block": [True, 1],
}
CHANGES = {
    "nothing": lambda world: None,
    "memory": _set_data(torch.clone, grad=False),
    "strides": _set_data(_transposed, grad=False),
    "strides in the same memory": _set_data(lambda x: x.t() if x.dim() == 2 else x),
    "strides of parameter and gradient": _set_data(_transposed),
    "flattened": _set_data(lambda x: x.view(-1) if x.is_contiguous() else x),
    "another parameter's shape": _set_data(lambda x: x.reshape(4, 9) if x.numel() == 36 else x),
    "expanded": _set_data(lambda x: x[:1].expand_as(x)),
    "empty": _set_data(lambda x: x[:0]),
    "bfloat16": _set_data(torch.Tensor.bfloat16),
    "float64": _set_data(torch.Tensor.double),
    "float16": _set_data(torch.Tensor.half, index=2),
    "device": _to_meta,
    "negative": _set_data(_negative_view, index=3),
    "resized": _resize,
    "shared memory": _share_memory,
    "marked as flat": _mark_as_flat,
    "gradient's memory": _set_grad(torch.clone),
    "gradient's memory within another's": _set_grad(lambda x: torch.stack([x, 2 * x])[1]),
    "no gradient": _set_grad(lambda x: None),
    "sparse gradient": _set_grad(torch.Tensor.to_sparse),
    "gradient's strides": _set_grad(_transposed),
    "gradient's strides in the same memory": _set_grad_data(lambda x: x.t() if x.shape == (6, 6) else x),
    "expanded gradient": _set_grad(lambda x: x[:1].expand_as(x)),
    "gradient of a subclass": _set_grad(lambda x: x.as_subclass(Subclass)),
    "negative gradient": _set_grad(_negative_view),
    "bfloat16 gradient": _set_grad_data(torch.Tensor.bfloat16),
    "gradient's shape": _set_grad_data(torch.flatten),
    "moment's memory": _set_state("exp_avg", torch.clone),
    "moment's strides": _set_state("exp_avg_sq", _transposed),
    "moment's type": _set_state("exp_avg", torch.Tensor.double),
    "moment's shape": _set_state("exp_avg_sq", torch.flatten),
    "no moment": _delete_state("exp_avg"),
    "no state": lambda world: world.optimizer.state.pop(world.params[0], None),
    "no seed": _delete_state("seed", index=4),
    "number of steps": _set_state("step", lambda x: torch.tensor(7.0)),
    "number of steps as an integer": _set_state("step", lambda x: torch.tensor(7)),
    "number of steps in float64": _set_state("step", lambda x: torch.tensor(7.0, dtype=torch.float64)),
    "number of steps in other memory": _set_state("step", lambda x: torch.stack([x - 1, x + 3])[1]),
    "number of steps of two": _set_state("step", lambda x: torch.tensor([7.0, 7.0])),
    "a group": _add_group,
    "another group": _regroup,
    "another order": _swap,
    "no gradients": _without_gradients,
    "frozen": _freeze,
    "thawed": _thaw,
    "loaded": _load,
    "loaded from AdamW": _load_adamw,
    "pickled": _pickle,
    "copied": _deepcopy,
    **{f"{key}={value}": _set_option(value, key) for key, values in OPTIONS.items() for value in values},
    "float16 at random": _set_option("stochastic", "rounding", group=1),
}


def assert_same_step(known, forgetful):
    forgetful.forget()
    raised = known.step()
    assert forgetful.step() == raised
    assert known.contents() == forgetful.contents()


@pytest.mark.parametrize("options", BACK_ENDS)
@pytest.mark.parametrize("name", CHANGES)
def test_change_between_steps_is_noticed(name, options):
    known, forgetful = World(options), World(options)
    for world in (known, forgetful):
        CHANGES[name](world)
    assert_same_step(known, forgetful)
    for world in (known, forgetful):
        world.new_gradients()
    assert_same_step(known, forgetful)


@pytest.mark.parametrize("name", CHANGES)
def test_change_is_noticed_where_torch_does_not_describe_tensors_to_the_library(name, monkeypatch):
    monkeypatch.setattr(Library, "can_describe", lambda library, device: False)
    test_change_between_steps_is_noticed(name, {})


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(sorted(CHANGES)), min_size=2, max_size=5))
def test_sequences_of_changes_are_noticed(names):
    known, forgetful = World({}), World({})
    for name in names:
        outcomes = []
        for world in (known, forgetful):
            try:
                CHANGES[name](world)
                outcomes.append(None)
            except Exception as error:  # a change that an earlier one has made impossible
                outcomes.append(type(error))
        assert outcomes[0] == outcomes[1]
        assert_same_step(known, forgetful)
        for world in (known, forgetful):
            world.new_gradients()


@pytest.mark.parametrize("options", BACK_ENDS)
def test_unchanged_tensors_are_not_checked_again(options, monkeypatch):
    world = World(options)
    checked = []
    check = mofo.optim.optimizer.check_param
    monkeypatch.setattr(mofo.optim.optimizer, "check_param", lambda *arguments: checked.append(check(*arguments)))
    for number in range(3):
        for group in world.optimizer.param_groups:
            group.update(lr=0.1 / (number + 1), betas=(0.5, 0.9), eps=1e-3 * number, weight_decay=0.1, maximize=True)
            if group["fraction"] != 1:
                group["fraction"] = 0.1 * (number + 1)
        assert world.step() is None
        world.new_gradients()
    assert not checked
    world.params[0].data = world.params[0].data.t()
    assert world.step() is None
    assert len(checked) == len(world.params)


def test_step_refuses_an_unchanged_tensor_whose_memory_another_now_shares():
    world = World({})
    _share_memory(world)
    before = world.contents()
    with pytest.raises(RuntimeError, match="overlap"):
        world.optimizer.step()
    assert world.contents() == before


def test_tensors_of_many_dimensions_are_known():
    params = [torch.nn.Parameter(torch.randn(1, 2, 1, 3, 2, 2)) for _ in range(3)]
    optimizer = MoFO(params, lr=0.1, fraction=0.5)
    for number in range(1, 4):
        before = [param.detach().clone() for param in params]
        for param in params:
            param.grad = torch.randn(param.shape)
        optimizer.step()
        for param, old in zip(params, before, strict=True):
            assert (param != old).sum() == param.numel() / 2
            assert optimizer.state[param]["step"] == number


def test_what_is_known_is_not_pickled_and_keeps_no_tensor_alive():
    world = World({})
    size = len(pickle.dumps(world.optimizer))
    world.forget()
    assert len(pickle.dumps(world.optimizer)) == size

    world = World({})
    gradient = weakref.ref(world.params[0].grad)
    world.optimizer.zero_grad()
    assert gradient() is None

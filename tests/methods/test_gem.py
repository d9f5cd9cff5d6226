"""GEM's projection, against a brute-force solution, and its use of memory."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from mofo.methods.gem import GEM, project


def brute_force(earlier, gradient, strength):
    """The minimiser of the dual over v ≥ γ: the best of all ways to hold some weights at γ and solve for the others."""
    gram, products = earlier @ earlier.T, earlier @ gradient
    best, least = None, np.inf
    for free in itertools.product([False, True], repeat=len(gram)):
        weights = np.full(len(gram), strength)
        free = np.array(free)
        if free.any():
            right = -products[free] - gram[np.ix_(free, ~free)] @ weights[~free]
            weights[free] = np.linalg.lstsq(gram[np.ix_(free, free)], right, rcond=None)[0]
        value = 0.5 * weights @ gram @ weights + products @ weights
        if (weights >= strength - 1e-12).all() and value < least - 1e-12:
            best, least = weights, value
    return best


@pytest.mark.parametrize("strength", [0.0, 0.5])
@pytest.mark.parametrize("tasks", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(8))
def test_project_equals_the_brute_force_solution(seed, tasks, strength):
    chance = np.random.default_rng(seed)
    earlier, gradient = chance.normal(size=(tasks, 12)), chance.normal(size=12)
    found = gradient + earlier.T @ project(earlier @ earlier.T, earlier @ gradient, strength)
    np.testing.assert_allclose(found, gradient + earlier.T @ brute_force(earlier, gradient, strength), atol=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_projection_rises_against_no_earlier_gradient_and_none_is_nearer(seed):
    chance = np.random.default_rng(seed)
    earlier, gradient = chance.normal(size=(3, 12)), chance.normal(size=12)
    found = gradient + earlier.T @ project(earlier @ earlier.T, earlier @ gradient)
    assert (earlier @ found >= -1e-9).all()
    distance = np.linalg.norm(found - gradient)
    for other in found + 0.3 * chance.normal(size=(500, 12)):
        assert (earlier @ other < 0).any() or np.linalg.norm(other - gradient) >= distance - 1e-9


def test_gradient_that_rises_against_none_stays_as_it_is():
    earlier = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert project(earlier @ earlier.T, earlier @ np.array([2.0, 1.0])).tolist() == [0.0, 0.0]


def test_equal_and_empty_earlier_gradients_are_no_trouble():
    earlier, gradient = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), np.array([-1.0, 1.0])
    found = gradient + earlier.T @ project(earlier @ earlier.T, earlier @ gradient)
    np.testing.assert_allclose(found, [0.0, 1.0], atol=1e-12)
    assert project(np.zeros((1, 1)), np.zeros(1)).tolist() == [0.0]


def example(ids):
    return {"input_ids": ids, "labels": ids, "prompt_ids": [], "answer": ""}


TASKS = [[example([5, 6, 7, 8, 9])], [example([20, 21, 22, 23]), example([30, 31, 32, 33, 34])]]


def gradients(model, rows):
    """The gradient of the mean loss per token of rows of one length each."""
    model.zero_grad(set_to_none=True)
    count = sum(len(row["labels"]) - 1 for row in rows)
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        (model(input_ids=ids, labels=ids).loss * (ids.shape[1] - 1) / count).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_after_backward_turns_the_gradient_of_a_model(model, setup, strength):
    setup = replace(setup, task=2, tasks=3, earlier=TASKS)
    earlier = [gradients(model, rows) for rows in TASKS]
    against = -(earlier[0] + 0.5 * earlier[1])
    stacked = torch.stack(earlier).double().numpy()
    weights = project(stacked @ stacked.T, stacked @ against.double().numpy(), strength)
    expected = against + sum(float(weight) * one for weight, one in zip(weights, earlier, strict=True))

    place = 0
    for parameter in model.parameters():
        parameter.grad = against[place : place + parameter.numel()].view_as(parameter).clone()
        place += parameter.numel()
    GEM(strength=strength).after_backward(model, 0, setup)
    found = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    if not strength:
        assert all(found @ one > -1e-5 * found.norm() * one.norm() - 1e-6 for one in earlier)


def test_after_backward_leaves_gradients_alone_in_the_first_task_and_between_its_steps(model, setup):
    second = replace(setup, task=1, tasks=2, earlier=TASKS[:1])
    for run, step in ((replace(setup, tasks=2), 0), (second, 1)):
        given = {}
        for name, parameter in model.named_parameters():
            given[name] = parameter.grad = torch.ones_like(parameter)
        GEM(every=2).after_backward(model, step, run)
        assert all(parameter.grad is given[name] for name, parameter in model.named_parameters())

"""The plane through a base and two models, against a naive float64 version."""

import math

import pytest
import torch
from torch import nn

from mofo.errors import UserError
from mofo.measure.plane import Plane


def weights(seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in (("a", (5, 7)), ("b", (11,)))}


def flat(tensors):
    return [float(x) for name in ("a", "b") for x in tensors[name].double().flatten()]


def dot(one, other):
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def naive(base, first, second):
    """u, and v without its component along u and as long as u, as lists of numbers."""
    u, w = ([b - a for a, b in zip(flat(base), flat(model), strict=True)] for model in (first, second))
    along = dot(w, u) / dot(u, u)
    v = [b - along * a for a, b in zip(u, w, strict=True)]
    stretch = math.sqrt(dot(u, u) / dot(v, v))
    return u, [stretch * x for x in v]


def test_axes_and_projections_match_naive_float64():
    base, first, second, third = map(weights, range(4))
    u, v = naive(base, first, second)
    plane = Plane(base, weights(1), weights(2))
    unit = math.sqrt(dot(u, u))
    assert flat(plane.u) == pytest.approx(u, abs=1e-5)
    assert flat(plane.v) == pytest.approx(v, abs=1e-5)
    assert plane.unit == pytest.approx(unit)
    for model, expected in ((first, (1.0, 0.0)), (second, plane.second.place), (base, (0.0, 0.0))):
        found = plane.project(model)
        assert found.place == pytest.approx(expected, abs=1e-5)
        assert found.off == pytest.approx(0, abs=1e-3)
    d = [b - a for a, b in zip(flat(base), flat(third), strict=True)]
    found = plane.project(third)
    x, y = dot(d, u) / unit**2, dot(d, v) / unit**2
    rest = [c - x * a - y * b for a, b, c in zip(u, v, d, strict=True)]
    assert found.place == pytest.approx((x, y), abs=1e-5)
    assert found.off == pytest.approx(math.sqrt(dot(rest, rest)) / unit, abs=1e-4)
    assert found.l2 == pytest.approx(math.sqrt(dot(d, d)))
    w = [b - a for a, b in zip(flat(base), flat(second), strict=True)]
    assert math.cos(math.radians(plane.angle)) == pytest.approx(dot(u, w) / unit / math.sqrt(dot(w, w)), abs=1e-6)


def test_move_gives_a_model_the_weights_of_a_point():
    base, first, second = map(weights, range(3))
    plane = Plane(base, weights(1), weights(2))
    model = nn.Module()
    for name, shape in (("a", (5, 7)), ("b", (11,))):
        model.register_parameter(name, nn.Parameter(torch.zeros(shape)))
    for expected, place in ((base, (0.0, 0.0)), (first, (1.0, 0.0)), (second, plane.second.place)):
        plane.move(model, *place)
        for name in base:
            torch.testing.assert_close(getattr(model, name).detach(), expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [(0.0, 1.0, "has the weights of the base"), (1.0, 2.0, "lie on one line"), (1.0, 0.0, "lie on one line")],
)
def test_models_that_span_no_plane_are_refused(first, second, problem):
    base, direction = weights(0), weights(1)
    models = [{name: base[name] + share * direction[name] for name in base} for share in (first, second)]
    with pytest.raises(UserError, match=problem):
        Plane(base, *models)

"""Matrices of cases, of which the most telling run always and the others in `make test-full` alone."""

import itertools

import pytest


def matrix(*axes, always):
    """Every combination of values as parameters of a test, marked `full` unless `always(*values)` is true."""
    return [pytest.param(*case, marks=() if always(*case) else pytest.mark.full) for case in itertools.product(*axes)]

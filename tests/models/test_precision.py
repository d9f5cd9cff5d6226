import pytest
import torch

from mofo.models.precision import autocast, choose_precision, compute_device


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_choose_precision_leaves_a_choice_alone(precision):
    assert choose_precision(precision) == precision


def test_choose_precision_decides_by_the_machine():
    assert choose_precision("auto") in ("float32", "bfloat16")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_autocast_computes_in_the_precision(precision):
    matrix = torch.ones(2, 2, device=compute_device())
    with autocast(precision):
        assert (matrix @ matrix).dtype == getattr(torch, precision)

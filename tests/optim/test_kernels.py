"""Every back end keeps the contract of `Kernels` and equals the specification to the bit. (Triton: test_triton.py.)"""

from dataclasses import replace

import pytest
import torch

from mofo.optim.kernels import Execution
from mofo.optim.rule.scores import SCORES
from mofo.optim.rule.types import Operands
from mofo.optim.rule.update import update
from reference.back_ends import KERNELS
from reference.operands import RULE, bits, copied, make_operands
from reference.patterns import patterned

SHAPES = [(), (5,), (64, 33), (12, 2000), (0, 3)]


def made(kind, dtype):
    generator = torch.Generator().manual_seed(0)
    grads = [patterned(kind, torch.Size(shape).numel(), generator).view(shape).to(dtype) for shape in SHAPES]
    return [make_operands(grad, generator, seed=seed) for seed, grad in enumerate(grads)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("kernels", KERNELS)
def test_kernels_equal_the_specification(kernels, score, dtype):
    rounding = "stochastic" if dtype is torch.bfloat16 else "nearest"
    for fraction, decay, maximize in [(0.1, "selected", False), (0.6, "all", True), (1.0, "selected", False)]:
        rule = replace(RULE, fraction=fraction, score=score, decay=decay, maximize=maximize, rounding=rounding)
        step = kernels()
        expected = [operands for operands in made("few_values", dtype) if step.serves(operands, rule, Execution())]
        if not expected:
            pytest.skip("it serves no such tensors")
        actual = [copied(operands) for operands in expected]
        for operands in actual:
            step.add(operands, rule, Execution())
        for before, operands in zip(expected, actual, strict=True):  # nothing is written before run
            assert all(torch.equal(bits(a), bits(b)) for a, b in zip(before[:4], operands[:4], strict=True))
        step.run()
        for ours, theirs in zip(expected, actual, strict=True):
            update(ours, rule)
            for name, a, b in zip(Operands._fields[:4], ours[:4], theirs[:4], strict=True):
                assert torch.equal(bits(a), bits(b)), (name, tuple(a.shape), rule)
            assert theirs.step == ours.step == 4


@pytest.mark.parametrize("kernels", KERNELS)
def test_kernels_without_tensors_do_nothing(kernels):
    kernels().run()

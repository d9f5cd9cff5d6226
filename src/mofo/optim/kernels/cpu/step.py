"""The step of CPU tensors by the native library, which takes all of them in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from mofo.optim.kernels.cpu import int8
from mofo.optim.kernels.cpu.library import Library, MemoryLayout, NativeConfig, load, pack
from mofo.optim.kernels.dispatch import uses_native

if TYPE_CHECKING:
    from torch import Tensor
    from torchao.optim.subclass_8bit import OptimState8bit

    from mofo.optim.kernels import Execution
    from mofo.optim.rule.types import Operands, Rule


class NativeStep:
    """The tensors of one step that the native library updates.

    Args:
        config: how the library computes; by default what is fastest.

    Attributes:
        layouts: of the tensors that were added.
    """

    unscales = False

    def __init__(self, config: NativeConfig | None = None) -> None:
        self.layouts: list[MemoryLayout] = []
        self._config = config or NativeConfig()
        self._packed: list[bytes] = []
        self._operands: list[Operands] = []  # the library is given addresses: what lies there must be kept,
        self._int8: list[OptimState8bit] = []  # and of moments in 8 bits the scales

    def serves(self, operands: Operands, rule: Rule, execution: Execution) -> bool:
        """Check whether the library updates a tensor.

        Raises:
            RuntimeError: `fused=True` insists on it, and it cannot.
        """
        return uses_native(execution, *operands[:4])

    def serves_int8(self, operands: Operands, execution: Execution) -> bool:
        """Check likewise of a tensor whose moments are in 8 bits: it must be contiguous, its gradient too."""
        param, grad, exp_avg, exp_avg_sq = operands[:4]
        is_readable = int8.serves(_in_8_bits(exp_avg)) and int8.serves(_in_8_bits(exp_avg_sq))
        return is_readable and param.is_contiguous() and grad.is_contiguous() and uses_native(execution, param, grad)

    def add(self, operands: Operands, rule: Rule, execution: Execution) -> None:
        """Take a tensor that the library can update."""
        self.add_all([operands], rule, [MemoryLayout.of(operands, rule)])

    def add_int8(self, operands: Operands, rule: Rule) -> None:
        """Take a tensor whose moments are in 8 bits, and that `serves_int8`."""
        m, v = _in_8_bits(operands.exp_avg), _in_8_bits(operands.exp_avg_sq)
        operands = operands._replace(exp_avg=m.codes, exp_avg_sq=v.codes)
        self.add_all([operands], rule, [MemoryLayout.of(operands, rule, int8.pack(m, v))])
        self._int8 += (m, v)

    def add_all(self, tensors: list[Operands], rule: Rule, layouts: list[MemoryLayout]) -> None:
        """Take tensors with the same rule, whose layouts are known."""
        self._packed += pack(tensors, rule, layouts)
        self._operands += tensors
        self.layouts += layouts

    def run(self) -> None:
        """Update the tensors that were added.

        Raises:
            RuntimeError: tensors may overlap in memory; nothing was written then.
            MemoryError: there is no scratch memory; nothing was written then.
        """
        if not self._packed:
            return
        library = load()
        assert isinstance(library, Library)
        library.step(self._packed, self._config)
        # With a number instead of the tensor torch would make one of it for each step.
        torch._foreach_add_([operands.step for operands in self._operands], torch.tensor(1.0), alpha=1.0)


def _in_8_bits(moment: Tensor) -> OptimState8bit:
    return cast("OptimState8bit", moment)

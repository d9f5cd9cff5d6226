"""The step of CPU tensors by the native library, which takes all of them in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mofo.optim.kernels.cpu import int8
from mofo.optim.kernels.cpu.library import Library, MemoryLayout, NativeConfig, load, pack
from mofo.optim.kernels.dispatch import uses_native
from mofo.optim.state.int8 import is_int8, quantisation_block

if TYPE_CHECKING:
    from torch import Tensor

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
        self._int8: list[Tensor] = []  # and of moments in 8 bits, their scales

    def serves(self, operands: Operands, rule: Rule, execution: Execution) -> bool:
        """Check whether the library updates a tensor; its moments may be in 8 bits.

        Raises:
            RuntimeError: `fused=True` insists on it, and it cannot.
        """
        param, grad, exp_avg, exp_avg_sq = operands[:4]
        if is_int8(exp_avg) and is_int8(exp_avg_sq):
            is_usual = exp_avg.block_size == exp_avg_sq.block_size == quantisation_block(param)
            is_readable = int8.serves(exp_avg) and int8.serves(exp_avg_sq)
            in_order = param.is_contiguous() and grad.is_contiguous()
            return is_usual and is_readable and in_order and uses_native(execution, param, grad)
        return uses_native(execution, param, grad, exp_avg, exp_avg_sq)

    def add(self, operands: Operands, rule: Rule, execution: Execution) -> None:
        """Take a tensor that the library can update."""
        m, v = operands.exp_avg, operands.exp_avg_sq
        codebooks = None
        if is_int8(m) and is_int8(v):
            self._int8 += (m, v)
            codebooks = int8.pack(m, v)
            operands = operands._replace(exp_avg=m.codes, exp_avg_sq=v.codes)
        self.add_all([operands], rule, [MemoryLayout.of(operands, rule, codebooks)])

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

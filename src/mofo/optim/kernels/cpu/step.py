"""The step of CPU tensors by the native library, which takes all of them in one call."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, cast

from mofo.optim.kernels.cpu import int8
from mofo.optim.kernels.cpu.library import MemoryLayout, NativeConfig, loaded, pack
from mofo.optim.kernels.dispatch import uses_native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torchao.optim.subclass_8bit import OptimState8bit

    from mofo.optim.kernels import Execution
    from mofo.optim.kernels.cpu.table import Table
    from mofo.optim.rule.types import Operands, Rule


class NativeStep:
    """The tensors of one step that the native library updates.

    Args:
        config: how the library computes; by default what is fastest.
    """

    unscales = False

    def __init__(self, config: NativeConfig | None = None) -> None:
        self._config = config or NativeConfig()
        self._rows: list[bytes | array[int]] = []
        self._steps = array("Q")  # addresses of the counters
        self._kept: list[object] = []  # the library is given addresses of what is in them

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
        self._add(operands, rule, MemoryLayout.of(operands, rule))

    def add_int8(self, operands: Operands, rule: Rule) -> None:
        """Take a tensor whose moments are in 8 bits, and that `serves_int8`."""
        m, v = _in_8_bits(operands.exp_avg), _in_8_bits(operands.exp_avg_sq)
        operands = operands._replace(exp_avg=m.codes, exp_avg_sq=v.codes)
        self._add(operands, rule, MemoryLayout.of(operands, rule, int8.pack(m, v)))
        self._kept += (m, v)  # of which the scales are read and written too

    def add_all(self, table: Table, addresses: Sequence[array[int]], rule: Rule, seeds: Sequence[int]) -> None:
        """Take tensors of one rule whose layouts are known.

        Args:
            table: of the tensors; the caller keeps both until `run` has returned.
            addresses: of parameters, gradients, first and second moments, and counters of steps.
            rule: by which they are updated.
            seeds: of each tensor.
        """
        *of_operands, steps = addresses
        self._rows.append(table.rows(of_operands, rule, loaded().read_steps(steps), seeds))
        self._steps += steps

    def run(self) -> None:
        """Update the tensors that were added.

        Raises:
            RuntimeError: tensors may overlap in memory; nothing was written then.
            MemoryError: there is no scratch memory; nothing was written then.
        """
        if self._rows:
            library = loaded()
            library.step(b"".join(self._rows), self._config)
            library.count_step(self._steps)

    def _add(self, operands: Operands, rule: Rule, layout: MemoryLayout) -> None:
        self._rows += pack([operands], rule, [layout])
        self._steps.append(operands.step.data_ptr())
        self._kept += (operands, layout)


def _in_8_bits(moment: Tensor) -> OptimState8bit:
    return cast("OptimState8bit", moment)

"""The step of CPU tensors by the native library, which takes all of them in one call."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import torch

from mofo.optim.kernels.cpu.library import Library, NativeConfig, load, pack
from mofo.optim.kernels.dispatch import uses_native

if TYPE_CHECKING:
    from torch import Tensor

    from mofo.optim.kernels import Execution
    from mofo.optim.rule.types import Operands, Rule


class NativeStep:
    """The tensors of one step that the native library updates.

    Args:
        config: how the library computes; by default what is fastest.
    """

    unscales = False

    def __init__(self, config: NativeConfig | None = None) -> None:
        self._config = config or NativeConfig()
        self._packed: list[bytes] = []
        # The library is given addresses: what lies there must be kept until it is called.
        self._operands: list[Operands] = []
        self._strides: list[array[int]] = []

    def serves(self, operands: Operands, rule: Rule, execution: Execution) -> bool:
        """Check whether the library updates a tensor.

        Raises:
            RuntimeError: `fused=True` insists on it, and it cannot.
        """
        return uses_native(execution, *operands[:4])

    def add(self, operands: Operands, rule: Rule, execution: Execution) -> None:
        """Take a tensor that the library can update."""
        param, grad, exp_avg, exp_avg_sq, *_ = operands
        contiguous = (
            param.is_contiguous() and grad.is_contiguous() and exp_avg.is_contiguous() and exp_avg_sq.is_contiguous()
        )
        self._operands.append(operands)
        self._packed.append(pack(operands, rule, 0 if contiguous else self._address_of_strides(*operands[:4])))

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
        torch._foreach_add_([operands.step for operands in self._operands], 1)

    def _address_of_strides(self, *tensors: Tensor) -> int:
        shape = tensors[0].shape
        strides = [stride for tensor in tensors for stride in tensor.stride()]
        self._strides.append(array("q", [len(shape), *shape, *strides]))
        return self._strides[-1].buffer_info()[0]

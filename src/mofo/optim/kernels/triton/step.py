"""The step of tensors on a GPU by Triton's kernels; Triton, which is slow to import, is imported when one is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mofo.optim.kernels.dispatch import uses_triton

if TYPE_CHECKING:
    from mofo.optim.grad_scaler import GradScale
    from mofo.optim.kernels import Execution
    from mofo.optim.kernels.triton.launch import Launch, Variant, Workspace
    from mofo.optim.rule.types import Operands, Rule


class TritonStep:
    """The tensors of one step that Triton's kernels update.

    Args:
        workspaces: tables and scratch memory that the kernels keep from step to step.
        scale: what `torch.amp.GradScaler` says of the gradients; it is read on the device.
    """

    unscales = True

    def __init__(self, workspaces: dict[Variant, Workspace], scale: GradScale) -> None:
        self._workspaces = workspaces
        self._scale = scale
        self._launch: Launch | None = None

    def serves(self, operands: Operands, rule: Rule, execution: Execution) -> bool:
        """Check whether the kernels update a tensor.

        Raises:
            RuntimeError: `fused=True` insists on them, and they cannot.
            NotImplementedError: `capturable=True` insists on them, and they cannot.
        """
        return uses_triton(execution, *operands[:4])

    def add(self, operands: Operands, rule: Rule, execution: Execution) -> None:
        """Take a tensor that the kernels can update."""
        if self._launch is None:
            from mofo.optim.kernels.triton.launch import Launch

            self._launch = Launch(self._workspaces, found_inf=self._scale.found_inf, grad_scale=self._scale.grad_scale)
        self._launch.add(operands, rule)

    def run(self) -> None:
        """Update the tensors that were added, without waiting for the device.

        Raises:
            RuntimeError: tensors overlap in memory, or the step cannot be captured; nothing was written then.
        """
        if self._launch is not None:
            self._launch.run()

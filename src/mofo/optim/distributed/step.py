"""The step of sharded parameters (`DTensor`): entries are selected from full tensors, and none is gathered.

Each process updates the entries that it has. Blocks that a process has to itself are left to the local back ends; for
the others the processes search the k-th highest score together (`search.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from mofo.optim.distributed.layout import find_layout
from mofo.optim.distributed.search import SharedBlocks
from mofo.optim.distributed.shards import Shards
from mofo.optim.distributed.shards_native import NativeShards
from mofo.optim.dtensor import is_dtensor, local
from mofo.optim.kernels.dispatch import uses_native
from mofo.optim.rule.rounding import rounds_at_random
from mofo.optim.rule.types import Operands

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

    from mofo.optim.distributed.layout import Layout
    from mofo.optim.grad_scaler import GradScale
    from mofo.optim.kernels import Execution
    from mofo.optim.rule.types import Rule


class ShardedStep:
    """The sharded tensors of one step.

    Args:
        scale: what `torch.amp.GradScaler` says of the gradients.
        add_local: takes those parts of a tensor that this process can update for itself: all of a tensor that is not
            sharded or of which every entry moves, and blocks that this process has to itself.
        workspaces: memory that back ends keep from step to step.
    """

    unscales = True

    def __init__(
        self,
        scale: GradScale,
        add_local: Callable[[Operands, Rule, Execution], None],
        workspaces: dict[Any, Any],
    ) -> None:
        self.has_served = False  # a tensor
        self._scale = scale
        self._add_local = add_local
        self._workspaces = workspaces
        self._shared: dict[tuple[DeviceMesh, tuple[int, ...], torch.dtype, torch.device], SharedBlocks] = {}
        self._steps: list[Tensor] = []

    def serves(self, operands: Operands, rule: Rule, execution: Execution) -> bool:
        """Check whether a tensor is a `DTensor`."""
        return is_dtensor(operands.param)

    def add(self, operands: Operands, rule: Rule, execution: Execution) -> None:
        """Take a `DTensor` with its gradient; its moments may be the local shards.

        Raises:
            NotImplementedError: the tensor is neither sharded nor replicated, or the step is to be captured.
            RuntimeError: `fused=True` cannot serve.
        """
        self.has_served = True
        if self._scale.overflowed:
            return
        param = operands.param
        assert is_dtensor(param)
        layout = find_layout(
            tuple(param.shape), param.device_mesh, param.placements, rule.blocks, share_all=_is_random(rule, param)
        )
        n, k = rule.sizes(param)
        here = _local_operands(operands)
        if layout is None:
            self._add_local(here, rule, execution)
        elif k == n and not rounds_at_random(rule.rounding, param):
            blocks = 1 if rule.fraction == 1 else max(1, len(here.param))  # else each entry is a block of its own
            self._add_local(here, replace(rule, blocks=blocks), execution)
        else:
            self._add_blocks(layout, param, here, rule, execution)

    def run(self) -> None:
        """Update the parts of the tensors that the local back ends did not take."""
        for shared in self._shared.values():
            shared.step()
        if self._steps:
            if all(step.is_cpu for step in self._steps):
                # With a number torch would make a tensor of it for each step.
                torch._foreach_add_(self._steps, torch.tensor(1.0), alpha=1.0)
            else:
                torch._foreach_add_(self._steps, 1)

    def _add_blocks(self, layout: Layout, param: DTensor, here: Operands, rule: Rule, execution: Execution) -> None:
        """Take a tensor by blocks: those of this process for the local back ends, the others for the search."""
        if execution.capturable:
            raise NotImplementedError("capturable=True is not supported for sharded parameters: leave it out")
        native = here.param.is_cpu and not _is_random(rule, param)
        if execution.fused and not native:
            raise RuntimeError(
                "fused=True updates sharded parameters on a CPU alone, and not at random (score, rounding): leave it "
                "out to use plain torch"
            )
        self._steps.append(here.step)
        shared = self._shared_blocks(param.device_mesh, layout.mesh_dims, here.exp_avg.dtype, here.param.device)
        n, k = rule.sizes(param)
        first = shared.number(layout, n, k)
        for rows in layout.ranges:
            part = here if len(layout.ranges) == 1 else _slice(here, slice(rows.start, rows.stop))
            if rows.shared is None:
                part = part._replace(step=here.step.clone())
                self._add_local(part, replace(rule, blocks=rows.blocks), execution)
            elif part.param.numel():
                if self._scale.is_set:
                    part = part._replace(grad=self._scale.unscaled(part.grad))
                kind = NativeShards if native and uses_native(execution, *part[:4]) else Shards
                shared.shards(kind).add(part, rule, layout, rows, n, first + rows.shared)

    def _shared_blocks(
        self, mesh: DeviceMesh, mesh_dims: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> SharedBlocks:
        key = mesh, mesh_dims, dtype, device
        if key not in self._shared:
            self._shared[key] = SharedBlocks(*key, self._workspaces)
        return self._shared[key]


def _is_random(rule: Rule, param: Tensor) -> bool:
    """Check whether an update depends on indices in the full tensor, which the local back ends do not know."""
    return rule.score == "random" or rounds_at_random(rule.rounding, param)


def _local_operands(operands: Operands) -> Operands:
    """Return what this process has of a `DTensor`, with its gradient spread as it is."""
    param, grad, exp_avg, exp_avg_sq, step, seed = operands
    assert is_dtensor(param)
    assert is_dtensor(grad)
    if grad.placements != param.placements:
        grad = grad.redistribute(param.device_mesh, param.placements)
    return Operands(local(param), local(grad), local(exp_avg), local(exp_avg_sq), step, seed)


def _slice(operands: Operands, rows: slice) -> Operands:
    param, grad, exp_avg, exp_avg_sq, step, seed = operands
    return Operands(param[rows], grad[rows], exp_avg[rows], exp_avg_sq[rows], step, seed)

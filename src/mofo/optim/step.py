"""One step: each tensor goes to the first back end that serves it, then each back end updates its tensors."""

from __future__ import annotations

import contextlib
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from mofo.optim.distributed.step import ShardedStep
from mofo.optim.kernels.cpu.step import NativeStep
from mofo.optim.kernels.plain.adamw import AdamWStep
from mofo.optim.kernels.plain.foreach import ForeachStep
from mofo.optim.kernels.plain.reference import ReferenceStep
from mofo.optim.kernels.plain.together import TogetherStep
from mofo.optim.kernels.triton.step import TritonStep
from mofo.optim.state.int8 import float32_moments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mofo.optim.grad_scaler import GradScale
    from mofo.optim.kernels import Execution, Kernels
    from mofo.optim.kernels.cpu.library import MemoryLayout
    from mofo.optim.kernels.triton.launch import Variant, Workspace
    from mofo.optim.rule.types import Operands, Rule


class Task(NamedTuple):
    """One tensor of a step."""

    operands: Operands
    rule: Rule
    execution: Execution
    int8: bool  # its moments are in 8 bits; in all processes alike
    together: int | None  # number of the group with which it is one block; None if it is blocks of its own


class Route(NamedTuple):
    """What the back ends found out about the tensors of a step."""

    kernels: list[int]  # which of `LocalStep` updates each tensor
    layouts: list[MemoryLayout]  # of those that the native library updates


class Batch(NamedTuple):
    """Tensors of one step that have one rule, with a known route: blocks of their own, and moments not in 8 bits."""

    tensors: list[Operands]
    rule: Rule
    execution: Execution


def make_step(tasks: list[Task], scale: GradScale, workspaces: dict[Variant, Workspace]) -> Route | None:
    """Make one step of the tensors of all groups.

    Args:
        tasks: the tensors.
        scale: what `torch.amp.GradScaler` says of the gradients.
        workspaces: memory that Triton's kernels keep from step to step.

    Returns:
        The route of the tensors, for later steps; None if it is more than a back end for each.

    Raises:
        RuntimeError, NotImplementedError: a back end that a group insists on cannot serve; nothing was written then.
    """
    route = _update([task for task in tasks if not task.int8], scale, workspaces)
    for batch in _int8_batches(tasks):
        route = None
        if scale.overflowed:  # to quantise again what was not changed might change it
            break
        with contextlib.ExitStack() as stack:
            wide = [task._replace(operands=stack.enter_context(float32_moments(task.operands))) for task in batch]
            _update(wide, scale, workspaces)
    return route


def repeat_step(batches: list[Batch], scale: GradScale, workspaces: dict[Variant, Workspace], route: Route) -> None:
    """Make a step of tensors whose route a step before has found, with gradients that have no scale."""
    local = LocalStep(scale, workspaces)
    local.add_all(batches, route)
    local.run()


def _update(tasks: list[Task], scale: GradScale, workspaces: dict[Variant, Workspace]) -> Route | None:
    local = LocalStep(scale, workspaces)
    sharded = ShardedStep(scale, local.add, workspaces)
    grouped = TogetherStep(scale)
    for operands, rule, execution, _, together in tasks:
        if together is not None:
            grouped.add(operands, rule, together)
        elif sharded.serves(operands, rule, execution):
            sharded.add(operands, rule, execution)
        else:
            local.add(operands, rule, execution)
    sharded.run()
    local.run()
    grouped.run()
    is_simple = not (sharded.has_served or scale.is_set or any(task.together is not None for task in tasks))
    return local.route if is_simple else None


class LocalStep:
    """The tensors of one step that this process updates for itself, each by the first back end that serves it.

    Args:
        scale: what `torch.amp.GradScaler` says of the gradients.
        workspaces: memory that Triton's kernels keep from step to step.
    """

    unscales = True

    def __init__(self, scale: GradScale, workspaces: dict[Variant, Workspace]) -> None:
        adamw, self._native = AdamWStep(), NativeStep()
        faster_first = (TritonStep(workspaces, scale), self._native, ForeachStep(), ReferenceStep())
        self.route = Route([], self._native.layouts)
        self._scale = scale
        self._by_priority: tuple[Kernels, ...] = (adamw, *faster_first)
        # Triton and the library may refuse tensors that overlap in memory, so they run before anything is written.
        self._in_order: tuple[Kernels, ...] = (*faster_first, adamw)

    def serves(self, operands: Operands, rule: Rule, execution: Execution) -> bool:
        """Return True: the specification serves whatever nothing faster does."""
        return True

    def add(self, operands: Operands, rule: Rule, execution: Execution) -> None:
        """Give a tensor to the first back end that serves it.

        Raises:
            RuntimeError, NotImplementedError: the group insists on a back end that cannot serve it.
        """
        serve = (number for number, each in enumerate(self._by_priority) if each.serves(operands, rule, execution))
        number = next(serve)
        self.route.kernels.append(number)
        kernels = self._by_priority[number]
        if kernels.unscales or not self._scale.is_set:
            kernels.add(operands, rule, execution)
        elif not self._scale.overflowed:
            kernels.add(operands._replace(grad=self._scale.unscaled(operands.grad)), rule, execution)

    def add_all(self, batches: list[Batch], route: Route) -> None:
        """Give tensors to the back ends that a step before has found to serve them."""
        numbers, layouts = iter(route.kernels), iter(route.layouts)
        for tensors, rule, execution in batches:
            of_each = list(islice(numbers, len(tensors)))
            for number in dict.fromkeys(of_each):
                kernels = self._by_priority[number]
                chosen = [operands for operands, own in zip(tensors, of_each, strict=True) if own == number]
                if kernels is self._native:
                    self._native.add_all(chosen, rule, list(islice(layouts, len(chosen))))
                else:
                    for operands in chosen:
                        kernels.add(operands, rule, execution)

    def run(self) -> None:
        """Update the tensors that were added."""
        for kernels in self._in_order:
            kernels.run()


def _int8_batches(tasks: list[Task]) -> Iterator[list[Task]]:
    """Cut the tensors with moments in 8 bits into batches that are no larger than the largest of them.

    In float32 their moments take memory. Entries are counted in all processes, so that these have the same batches.
    """
    quantised = [task for task in tasks if task.int8]
    largest = max((task.operands.param.numel() for task in quantised), default=0)
    batch: list[Task] = []
    size = 0
    for task in quantised:
        entries = task.operands.param.numel()
        if size + entries > largest:
            yield batch
            batch, size = [], 0
        batch.append(task)
        size += entries
    if batch:
        yield batch

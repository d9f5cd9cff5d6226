"""One step: each tensor goes to the first back end that serves it, then each back end updates its tensors."""

from __future__ import annotations

import contextlib
from itertools import chain, groupby, repeat
from typing import TYPE_CHECKING, NamedTuple

import torch

from mofo.optim.distributed.step import ShardedStep
from mofo.optim.dtensor import is_dtensor
from mofo.optim.kernels.cpu.library import MemoryLayout
from mofo.optim.kernels.cpu.step import NativeStep
from mofo.optim.kernels.cpu.table import Table
from mofo.optim.kernels.plain.adamw import AdamWStep
from mofo.optim.kernels.plain.foreach import ForeachStep
from mofo.optim.kernels.plain.reference import ReferenceStep
from mofo.optim.kernels.plain.together import TogetherStep
from mofo.optim.kernels.triton.step import TritonStep
from mofo.optim.state.int8 import float32_moments

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator, Sequence

    from mofo.optim.columns import Columns
    from mofo.optim.grad_scaler import GradScale
    from mofo.optim.kernels import Execution, Kernels
    from mofo.optim.kernels.triton.launch import Variant, Workspace
    from mofo.optim.rule.types import Operands, Rule

    Route = list[type[Kernels]]  # the back end that updates each tensor of a step


class Task(NamedTuple):
    """One tensor of a step."""

    operands: Operands
    rule: Rule
    execution: Execution
    int8: bool  # its moments are in 8 bits; in all processes alike
    together: int | None  # number of the group with which it is one block; None if it is blocks of its own


class Share(NamedTuple):
    """Tensors of one group, one after the other, that one back end updates."""

    where: slice  # among the tensors of the step
    group: int
    kernels: type[Kernels]
    table: Table | None  # of those that the native library updates


def shares_of(columns: Columns, counts: Sequence[int], rules: Sequence[Rule], route: Route) -> list[Share]:
    """Cut the tensors of a step into those of one group and one back end.

    Args:
        columns: the tensors.
        counts: how many of them each group has.
        rules: of each group.
        route: of the tensors.
    """
    of_groups = chain.from_iterable(map(repeat, range(len(counts)), counts))
    shares = []
    first = 0
    for (group, kernels), tensors in groupby(zip(of_groups, route, strict=True)):
        where = slice(first, first + len(list(tensors)))
        layouts = (MemoryLayout.of(operands, rules[group]) for operands in columns.rows(where))
        shares.append(Share(where, group, kernels, Table(list(layouts)) if kernels is NativeStep else None))
        first = where.stop
    return shares


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
    direct: list[Task] = []
    widened: list[Task] = []
    for task in tasks:
        (widened if task.int8 and not _stays_int8(task) else direct).append(task)
    route = _update(direct, scale, workspaces)
    for batch in _batches(widened):
        route = None
        if scale.overflowed:  # to quantise again what was not changed might change it
            break
        with contextlib.ExitStack() as stack:
            wide = [(task, stack.enter_context(float32_moments(task.operands))) for task in batch]
            _update([task._replace(operands=operands, int8=False) for task, operands in wide], scale, workspaces)
    return route


def repeat_step(
    columns: Columns,
    addresses: Sequence[array[int]],
    shares: Sequence[Share],
    rules: Sequence[tuple[Rule, Execution]],
    scale: GradScale,
    workspaces: dict[Variant, Workspace],
) -> None:
    """Make a step of tensors whose route a step before has found, with gradients that have no scale.

    Args:
        columns: the tensors.
        addresses: of all tensors, column by column.
        shares: who updates them.
        rules: of each group.
        scale: that says nothing.
        workspaces: memory that Triton's kernels keep from step to step.
    """
    local = LocalStep(scale, workspaces)
    for share in shares:
        local.add_share(share, columns, addresses, *rules[share.group])
    local.run()


def _update(tasks: list[Task], scale: GradScale, workspaces: dict[Variant, Workspace]) -> Route | None:
    local = LocalStep(scale, workspaces)
    sharded = ShardedStep(scale, local.add, workspaces)
    grouped = TogetherStep(scale)
    for operands, rule, execution, int8, together in tasks:
        if int8:
            local.add_int8(operands, rule)
        elif together is not None:
            grouped.add(operands, rule, together)
        elif sharded.serves(operands, rule, execution):
            sharded.add(operands, rule, execution)
        else:
            local.add(operands, rule, execution)
    sharded.run()
    local.run()
    grouped.run()
    special = any(task.int8 or task.together is not None for task in tasks)
    is_simple = not (sharded.has_served or scale.is_set or special)
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
        self.route: Route = []
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
        kernels = next(each for each in self._by_priority if each.serves(operands, rule, execution))
        self.route.append(type(kernels))
        if kernels.unscales:
            kernels.add(operands, rule, execution)
        elif not self._scale.overflowed:
            kernels.add(self._unscaled(operands), rule, execution)

    def add_int8(self, operands: Operands, rule: Rule) -> None:
        """Give a tensor whose moments are in 8 bits to the native library, which must serve it so."""
        if not self._scale.overflowed:
            self._native.add_int8(self._unscaled(operands), rule)

    def add_share(
        self, share: Share, columns: Columns, addresses: Sequence[array[int]], rule: Rule, execution: Execution
    ) -> None:
        """Give tensors to the back end that a step before has found to serve them."""
        where = share.where
        if share.table is not None:
            self._native.add_all(share.table, [column[where] for column in addresses], rule, columns.seeds[where])
            return
        kernels = next(each for each in self._by_priority if type(each) is share.kernels)
        for operands in columns.rows(where):
            kernels.add(operands, rule, execution)

    def run(self) -> None:
        """Update the tensors that were added."""
        for kernels in self._in_order:
            kernels.run()

    def _unscaled(self, operands: Operands) -> Operands:
        if not self._scale.is_set:
            return operands
        return operands._replace(grad=self._scale.unscaled(operands.grad))


def _stays_int8(task: Task) -> bool:
    """Check whether the native library updates a tensor whose moments are in 8 bits, without a float32 copy of them.

    Raises:
        RuntimeError: `fused=True` insists on it, and it cannot.
    """
    operands, rule, execution, _, together = task
    is_torchs = rule.fraction == 1 and operands.param.dtype is torch.float32  # AdamWStep has it
    if together is not None or execution.capturable or is_torchs or is_dtensor(operands.param):
        return False
    return NativeStep().serves_int8(operands, execution)


def _batches(tasks: list[Task]) -> Iterator[list[Task]]:
    """Cut the tensors whose moments in 8 bits are widened into batches that are no larger than the largest of them.

    In float32 their moments take memory. Entries are counted in all processes, so that these have the same batches.
    """
    largest = max((task.operands.param.numel() for task in tasks), default=0)
    batch: list[Task] = []
    size = 0
    for task in tasks:
        entries = task.operands.param.numel()
        if size + entries > largest:
            yield batch
            batch, size = [], 0
        batch.append(task)
        size += entries
    if batch:
        yield batch

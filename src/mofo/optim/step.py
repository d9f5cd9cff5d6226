"""One step: which back end updates which tensors, and in which order."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from mofo.optim.distributed.step import ShardedStep
from mofo.optim.dtensor import is_dtensor, local
from mofo.optim.kernels.cpu.library import NativeStep
from mofo.optim.kernels.dispatch import check_fused, uses_native, uses_triton
from mofo.optim.kernels.plain.adamw import is_whole, update_whole
from mofo.optim.kernels.plain.foreach import multi_tensor_update
from mofo.optim.rule.update import update
from mofo.optim.state.int8 import float32_moments, is_quantised, quantisation_block

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mofo.optim.grad_scaler import GradScale
    from mofo.optim.kernels.triton.launch import TritonStep

Operands = tuple[Any, ...]  # parameter, gradient, both moments, step and seed
Group = dict[str, Any]
Work = list[tuple[Group, list[Operands]]]

METHOD = ("lr", "fraction", "betas", "eps", "weight_decay", "blocks", "score", "decay", "maximize", "rounding")


def make_step(work: Work, scale: GradScale, workspaces: dict[Any, Any]) -> None:
    """One step of the tensors of each group.

    Args:
        work: groups with their tensors.
        scale: what ``torch.amp.GradScaler`` says of the gradients.
        workspaces: memory that Triton's kernels keep from step to step.

    Raises:
        RuntimeError, NotImplementedError: a back end that a group insists on cannot serve; nothing was written then.
    """
    at_once = [(group, [operands for operands in batch if not _is_quantised(group, operands)]) for group, batch in work]
    _update(at_once, scale, workspaces)
    for part in _parts_of_quantised(work):
        if scale.overflowed:  # to quantise again what was not changed might change it
            return
        with contextlib.ExitStack() as stack:
            _update([(group, [stack.enter_context(float32_moments(own))]) for group, own in part], scale, workspaces)


def _parts_of_quantised(work: Work) -> Iterator[list[tuple[Group, Operands]]]:
    """The tensors with quantised moments, no more at a time than the largest: in float32 they take memory.

    Entries are counted in all processes, so that these have the same parts.
    """
    quantised = [(group, operands) for group, batch in work for operands in batch if _is_quantised(group, operands)]
    largest = max((operands[0].numel() for _, operands in quantised), default=0)
    part: list[tuple[Group, Operands]] = []
    size = 0
    for group, operands in quantised:
        entries = operands[0].numel()
        if size + entries > largest:
            yield part
            part, size = [], 0
        part.append((group, operands))
        size += entries
    if part:
        yield part


def _is_quantised(group: Group, operands: Operands) -> bool:
    """Whether its moments are, the same in all processes: one that has nothing of a shard tells by its shape."""
    param, _, exp_avg, *_ = operands
    if is_dtensor(param) and local(param).numel() == 0:
        return group["state"] == "int8" and quantisation_block(param) is not None
    return is_quantised(exp_avg)


def _update(work: Work, scale: GradScale, workspaces: dict[Any, Any]) -> None:
    sharded, native, gpu = ShardedStep(scale), NativeStep(), None
    rest = []  # what plain torch updates
    for group, method, batch in _local(work, sharded, scale):
        whole, plain = [], []
        for operands in batch:
            if not is_whole(group, operands) and uses_triton(group, operands[:4]):
                gpu = gpu or _triton_step(scale, workspaces)
                gpu.add(*operands, **method)
                continue
            if scale.overflowed:
                continue
            operands = (operands[0], scale.unscaled(operands[1]), *operands[2:])
            if is_whole(group, operands):
                if group["fused"]:
                    check_fused(*operands[:4])
                whole.append(operands)
            elif uses_native(group, operands[:4]):
                native.add(*operands, **method)
            else:
                plain.append(operands)
        rest.append((group, method, whole, plain))

    sharded.run()
    if gpu:
        gpu.run()
    native.run()
    for group, method, whole, plain in rest:
        if whole:
            update_whole(whole, group["foreach"], group["fused"], group["capturable"], **method)
        if group["foreach"] is not False:
            multi_tensor_update(plain, **method)
        else:
            for operands in plain:
                update(*operands, **method)


def _triton_step(scale: GradScale, workspaces: dict[Any, Any]) -> TritonStep:
    from mofo.optim.kernels.triton.launch import TritonStep  # imports Triton, which is slow

    return TritonStep(workspaces, found_inf=scale.found_inf, grad_scale=scale.grad_scale)


def _local(
    work: Work, sharded: ShardedStep, scale: GradScale
) -> Iterator[tuple[Group, dict[str, Any], list[Operands]]]:
    """Groups, options and tensors that this process can update for itself; the rest is added to ``sharded``."""
    for group, tensors in work:
        method = {key: group[key] for key in METHOD}
        batch = []
        for operands in tensors:
            if is_dtensor(operands[0]):
                if scale.overflowed:
                    continue
                for part, options in sharded.add(*operands, group=group, method=method):
                    yield group, options, [part]
            else:
                batch.append(operands)
        yield group, method, batch

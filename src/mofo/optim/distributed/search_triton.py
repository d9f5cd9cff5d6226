"""The shared blocks of a step on a GPU, by Triton's kernels: the search of `search.py`, with all of it on the device.

What the processes have of the blocks, the brackets and the bins are the kernels' (`kernels/triton/shard_kernels.py`);
here is when the processes add up their counts. The host waits for the device once, after the rounds that every search
needs: whether one more message is to be sent follows from sums that are on the device, and it is the host that sends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from mofo.optim.distributed import search
from mofo.optim.distributed.shard import sample_stride
from mofo.optim.kernels.triton.packing import Block, check_overlap, is_aligned, pack_row, rate_on_device
from mofo.optim.kernels.triton.shard_launch import Kind, Part, ShardConfig, ShardWorkspace, Whole
from mofo.optim.rule.rounding import rounds_at_random

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh

    from mofo.optim.distributed.layout import Layout, RowRange
    from mofo.optim.grad_scaler import GradScale
    from mofo.optim.rule.types import Operands, Rule

CONFIG = ShardConfig()


class TritonBlocks:
    """Blocks that are spread over the same processes, and what this process has of them, on a GPU.

    Args:
        mesh: of the processes.
        mesh_dims: its dimensions over which the blocks are spread.
        device: of the parameters.
        workspaces: memory that back ends keep from step to step.
        scale: what `torch.amp.GradScaler` says of the gradients, which are unscaled as they are read.
    """

    def __init__(
        self,
        mesh: DeviceMesh,
        mesh_dims: tuple[int, ...],
        device: torch.device,
        workspaces: dict[Any, Any],
        scale: GradScale,
    ) -> None:
        self._mesh, self._mesh_dims, self._device = mesh, mesh_dims, device
        self._workspaces = workspaces
        self._scale = scale
        self._layouts: list[Layout] = []  # the different ones,
        self._numbers: dict[int, int] = {}  # and their numbers, by identity
        self._wholes: list[Whole] = []
        self._parts: list[Part] = []
        self._tensors: list[tuple[Tensor, ...]] = []  # of the parts
        self._rows: tuple[list[bytes], list[bytes]] = [], []  # of the parts, and of the whole tensors
        self._kept: list[Tensor] = []  # until the kernels are launched
        self._copied: list[tuple[Tensor, Tensor]] = []  # what is not contiguous, and what is updated in its place
        self._shared = 0  # blocks

    def add(self, operands: Operands, rule: Rule, layout: Layout, n: int, k: int) -> None:
        """Take the shared blocks of a tensor.

        Args:
            operands: the local tensors. A step on the device is read there, but not counted.
            rule: of the update; its blocks are those of the full tensor.
            layout: of the full tensor.
            n: entries of a block in all processes,
            k: and how many of them move.
        """
        if id(layout) not in self._numbers:
            self._numbers[id(layout)] = len(self._layouts)
            self._layouts.append(layout)
        rate = rate_on_device(rule.lr, self._device)
        self._kept += [operands.step] if rate is None else [operands.step, rate]
        self._rows[1].append(pack_row(operands, rule, Block(0, k, False), rate))
        for rows in layout.ranges:
            if rows.shared is not None and operands.param.numel():
                self._add_part(operands, rule, rows, (n, k), rate)
        self._wholes.append(Whole(layout.shared, n, self._numbers[id(layout)]))
        self._shared += layout.shared

    def _add_part(
        self, operands: Operands, rule: Rule, rows: RowRange, sizes: tuple[int, int], rate: Tensor | None
    ) -> None:
        """Take consecutive shared blocks of a tensor, of each of which this process has equally many entries.

        `sizes` are how many entries of a block there are in all processes, and how many of them move.
        """
        assert rows.shared is not None
        part = operands.of_rows(rows.start, rows.stop)
        param, grad, exp_avg, exp_avg_sq = tensors = tuple(x.resolve_neg().contiguous() for x in part[:4])
        written = (part.param, param), (part.exp_avg, exp_avg), (part.exp_avg_sq, exp_avg_sq)
        self._copied += [(original, copy) for original, copy in written if copy.data_ptr() != original.data_ptr()]
        part = part._replace(param=param, grad=grad, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)
        n = param.numel() // rows.blocks
        kind = Kind(param.dtype, grad.dtype, rule.score, rounds_at_random(rule.rounding, param))
        offset = rows.start * (param.numel() // (rows.stop - rows.start))
        stride = sample_stride(sizes[0], n)
        first = self._shared + rows.shared
        self._parts.append(Part(kind, len(self._wholes), first, rows.blocks, n, stride, offset))
        self._tensors.append(tensors)
        self._rows[0].append(pack_row(part, rule, Block(n, sizes[1], is_aligned(tensors, n)), rate))

    def step(self) -> None:
        """Update the entries that this process has of the blocks.

        Raises:
            RuntimeError: tensors overlap in memory, and nothing was written; or not all processes have gradients of the
                same parameters.
        """
        if not self._shared:
            return  # each process has its blocks to itself
        workspace = self._workspace()
        workspace.begin(b"".join(self._rows[0] + self._rows[1]), self._scale.grad_scale)

        # Together: a bracket of the k-th highest key of each block, from a sample of all processes
        workspace.count_sample()
        self._add_up(workspace.sample)
        workspace.guess_brackets()

        # Local: the moments of every entry
        workspace.update_moments()

        # Filter: the k-th highest key; and of equal ones the first, whose places are counted from the end
        self._add_up(workspace.counts)
        workspace.narrow_brackets(first=True)
        for _ in range(workspace.least_rounds - 1):
            self._next_round(workspace)
        report = workspace.conclude()
        while report.unsettled and not report.incomplete:
            self._next_round(workspace)
            report = workspace.conclude()
        if report.incomplete:
            raise RuntimeError(search.INCOMPLETE)
        for _ in range(workspace.place_rounds if report.tied else 0):
            workspace.count_places()
            self._add_up(workspace.counts[: report.tied])
            workspace.narrow_brackets(places=True)

        # Local: update of the selected
        workspace.move()
        for original, copy in self._copied:
            original.copy_(copy)

    def _next_round(self, workspace: ShardWorkspace) -> None:
        workspace.count_keys()
        self._add_up(workspace.counts)
        workspace.narrow_brackets()

    def _workspace(self) -> ShardWorkspace:
        """Return the workspace of the step before, if that was of such tensors, or a new one."""
        counts, bits = search.count_dtype(max(whole.n for whole in self._wholes)), search.bin_bits(self._shared)
        least, shift = search.sample_bins(torch.float32, bits)
        config = CONFIG._replace(counts=counts, bits=bits, least=least, shift=shift, spread=search.SPREAD)
        key = self._mesh, self._mesh_dims, self._device
        workspace: ShardWorkspace | None = self._workspaces.get(key)
        described = self._wholes, self._parts, self._layouts, config
        if workspace is None or not workspace.fits(*described):
            check_overlap(self._tensors)
            self._workspaces[key] = workspace = ShardWorkspace(self._device, *described)
        return workspace

    def _add_up(self, counts: Tensor) -> None:
        """Sum over the processes, in place."""
        for dim in self._mesh_dims:
            dist.all_reduce(counts, group=self._mesh.get_group(dim))

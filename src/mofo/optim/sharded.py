"""The step of sharded parameters (``DTensor``): each block is selected from as a whole, and no tensor is gathered.

Each process updates the entries that it has. All that the processes must agree on is the k-th highest score of each
block, and that takes counts only: scores are compared as the integers that have their bits (``top_k.py``), and the k-th
highest integer is found digit by digit, from the highest one. Each process counts its entries by their next digit, an
all-reduce adds the counts up, and these tell everyone which digit the k-th highest has. Of equal scores the first ones
in the whole tensor are selected; where not all of them fit, the index of the last that does is found in the same way.

With one process it is the same code without the all-reduce. A step sends as many messages, of as many bytes, for any
size of the tensors: their number alone counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from mofo.optim.blocks import block_size, selected_count
from mofo.optim.dispatch import uses_native
from mofo.optim.kernels.native_shard import NativeShard
from mofo.optim.layout import find_layout
from mofo.optim.shard import Shard
from mofo.optim.top_k import INFINITY, INTEGER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

    from mofo.optim.layout import Layout

DIGIT = 11  # bits; so many that float32 scores have three
COUNTS = 1 << 23  # where there are very many blocks digits are shorter, so that the counts are no more than these


class ShardedStep:
    """The sharded tensors of one step, of all groups."""

    def __init__(self) -> None:
        self._teams: dict[tuple[Any, ...], Team] = {}
        self._steps: list[Tensor] = []

    def add(
        self,
        param: DTensor,
        grad: DTensor,
        exp_avg: DTensor,
        exp_avg_sq: DTensor,
        step: Tensor,
        seed: int,
        group: Mapping[str, Any],
        method: Mapping[str, Any],
    ) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Take a tensor as :func:`mofo.optim.update.update` does.

        Returns:
            Those parts of it that this process can update for itself, as arguments of the local back ends: all of a
            tensor that is not sharded, or of which every entry moves, and blocks that this process has whole.

        Raises:
            NotImplementedError: the tensor is neither sharded nor replicated.
        """
        mesh, placements = param.device_mesh, param.placements
        if grad.placements != placements:
            grad = grad.redistribute(mesh, placements)
        tensors = [tensor.to_local() for tensor in (param, grad, exp_avg, exp_avg_sq)]
        n = block_size(param, method["blocks"])
        k = selected_count(method["fraction"], n)
        # the random score needs the index in the whole tensor, which the local back ends do not know
        whole = method["score"] != "random"
        layout = find_layout(tuple(param.shape), mesh, placements, method["blocks"], whole)
        if layout is None:
            return [((*tensors, step, seed), dict(method))]
        if k == n:
            return [((*tensors, step, seed), {**method, "blocks": 1, "fraction": 1.0})]

        self._steps.append(step)
        team = self._team(mesh, layout.mesh_dims, exp_avg.dtype, tensors[0].device)
        first = team.add_blocks(layout, n, k)
        local = []
        for run in layout.runs:
            part = [tensor[run.start : run.stop] for tensor in tensors]
            if run.shared is None:
                local.append(((*part, step.clone(), seed), {**method, "blocks": run.blocks}))
            elif part[0].numel():
                kind = NativeShard if method["score"] != "random" and uses_native(group, tuple(part)) else Shard
                team.shards.append(kind(*part, int(step) + 1, seed, layout, run, first + run.shared, method))
        return local

    def run(self) -> None:
        """Update the parts of the tensors that the local back ends did not."""
        for team in self._teams.values():
            team.step()
        if self._steps:
            torch._foreach_add_(self._steps, 1)

    def _team(self, *key: Any) -> Team:
        if key not in self._teams:
            self._teams[key] = Team(*key)
        return self._teams[key]


class Team:
    """Processes over which blocks are spread, and what this one has of these blocks."""

    def __init__(self, mesh: DeviceMesh, mesh_dims: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.shards: list[Shard] = []
        self._mesh = mesh
        self._mesh_dims = mesh_dims
        self._infinity = INFINITY[INTEGER[dtype.itemsize]]
        self._device = device
        self._n: list[int] = []  # of each block, entries in all processes,
        self._k: list[int] = []  # and how many of them move
        self._size = 0  # entries of the largest tensor in all processes

    def add_blocks(self, layout: Layout, n: int, k: int) -> int:
        """Number the shared blocks of a tensor, with n entries of which k move; returns the number of the first."""
        first = len(self._k)
        self._n += [n] * layout.shared
        self._k += [k] * layout.shared
        self._size = max(self._size, layout.size)
        return first

    def step(self) -> None:
        """Update the entries that this process has of the blocks."""
        if not self._k:
            return  # each process has its blocks whole

        # Local: the moments of every entry
        for shard in self.shards:
            shard.update_moments()

        # Filter: the k-th highest key of each block, and how many of the entries that have it are selected
        n, k = (torch.tensor(numbers, device=self._device) for numbers in (self._n, self._k))
        keys, selected, equal = self._descend(self._infinity.bit_length(), n, k, self._count_keys)

        # Of equal ones the first: the highest of their places, which are counted from the end
        all_equal = (selected == equal) | (keys >= self._infinity)
        places = torch.zeros_like(keys)
        if not all_equal.all():
            tied = torch.where(all_equal, -1, keys)  # no entry has the key -1
            total, rank = (x.masked_fill(all_equal, 0) for x in (equal, selected))
            places, _, _ = self._descend(
                self._size.bit_length(), total, rank, lambda *digit: self._count_places(tied, *digit)
            )
            places = places.masked_fill(all_equal, 0)

        # Local: update of the selected
        for shard in self.shards:
            shard.move(keys, places)
            shard.finish()

    def _count_keys(self, prefix: Tensor, shift: int, width: int) -> Tensor:
        counts = self._no_counts(width)
        for shard in self.shards:
            shard.count_keys(prefix, shift, width, counts)
        return counts

    def _count_places(self, tied: Tensor, prefix: Tensor, shift: int, width: int) -> Tensor:
        counts = self._no_counts(width)
        for shard in self.shards:
            shard.count_places(tied, prefix, shift, width, counts)
        return counts

    def _no_counts(self, width: int) -> Tensor:
        return torch.zeros((len(self._n), 1 << width), dtype=torch.int64, device=self._device)

    def _all_reduce(self, counts: Tensor) -> Tensor:
        """The sum over the processes; a parameter that is offloaded to the CPU is counted there and added elsewhere."""
        dtype = torch.int32 if max(self._n) < 2**31 else torch.int64
        total = counts.to(self._mesh.device_type, dtype)
        for dim in self._mesh_dims:
            dist.all_reduce(total, group=self._mesh.get_group(dim))
        return total.to(counts.device, counts.dtype)

    def _descend(
        self, bits: int, total: Tensor, rank: Tensor, count: Callable[[Tensor, int, int], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Find numbers of a rank (1 is the highest) among numbers that are spread over the processes.

        Args:
            bits: so many the numbers have at most.
            total: (blocks,), how many numbers each block has in all processes.
            rank: (blocks,).
            count: ``count(prefix, shift, width)`` counts the numbers of this process by their digit: (blocks,
                2**width), of those that have the prefix above it.

        Returns:
            (blocks,) each: the numbers, their ranks among the equal ones, and how many equal ones there are.
        """
        width = min(DIGIT, max(1, COUNTS.bit_length() - 1 - len(rank).bit_length()))
        prefix = torch.zeros_like(rank)
        for shift in reversed(range(0, bits, width)):
            counts = self._all_reduce(count(prefix, shift, width))
            at_least = counts.flip(1).cumsum_(1).flip(1)  # how many numbers have this digit or a higher one
            if not torch.equal(at_least[:, 0], total):
                missing = int((at_least[:, 0] != total).nonzero()[0])
                raise RuntimeError(
                    f"of the {int(total[missing])} entries of a sharded block {int(at_least[missing, 0])} took part in "
                    "the step: all processes must call step() with gradients of the same parameters"
                )
            digit = ((at_least >= rank[:, None]).sum(dim=1, keepdim=True) - 1).clamp_(min=0)
            total = counts.gather(1, digit).squeeze(1)
            rank = rank - (at_least.gather(1, digit).squeeze(1) - total)
            prefix = prefix << width | digit.squeeze(1)
        return prefix, rank, total

"""The step of sharded parameters (``DTensor``): each block is selected from as a whole, and no tensor is gathered.

Each process updates the entries that it has. All that the processes must agree on is the k-th highest score of each
block, and that takes counts only. Scores are compared as the integers that have their bits, the keys
(``threshold.py``). A sample tells between which two keys the k-th highest probably lies. Each process counts its keys
in 2048 bins between these two, an all-reduce adds the counts up, and they tell everyone in which bin the k-th highest
is, or that the sample misled. With the bin in place of the bracket that is repeated, until a bin has one key only. Of
equal scores the first ones in the whole tensor are selected; where not all of them fit, the place of the last that does
is found likewise.

With one process it is the same code without the all-reduce. How much is sent does not depend on the size of the
tensors, only on their number.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from mofo.optim.distributed.layout import find_layout
from mofo.optim.distributed.shard import Shard, count_bins
from mofo.optim.distributed.shard_native import NativeShard
from mofo.optim.dtensor import local
from mofo.optim.kernels.dispatch import uses_native
from mofo.optim.kernels.plain.threshold import INFINITY, INTEGER
from mofo.optim.rule.blocks import block_size, selected_count
from mofo.optim.rule.rounding import is_random

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

    from mofo.optim.distributed.layout import Layout
    from mofo.optim.grad_scaler import GradScale

WIDTH = 11  # bits of the number of a bin,
COUNTS = 1 << 23  # but fewer where blocks are so many that the counts of all would be more than these
SPREAD = 4.0  # half-width of the bracket that a sample tells, in standard deviations


class ShardedStep:
    """The sharded tensors of one step, of all groups."""

    def __init__(self, scale: GradScale) -> None:
        self._scale = scale
        self._teams: dict[tuple[Any, ...], Team] = {}
        self._steps: list[Tensor] = []

    def add(
        self,
        param: DTensor,
        grad: DTensor,
        exp_avg: Tensor,  # the shard that is here, or a DTensor
        exp_avg_sq: Tensor,  # as exp_avg
        step: Tensor,
        seed: int,
        *,
        group: Mapping[str, Any],
        method: Mapping[str, Any],
    ) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Take a tensor as :func:`mofo.optim.rule.update.update` does.

        Returns:
            Those parts of it that this process can update for itself, as arguments of the local back ends: all of a
            tensor that is not sharded, or of which every entry moves, and blocks that this process has whole.

        Raises:
            NotImplementedError: the tensor is neither sharded nor replicated, or the step is to be captured.
            RuntimeError: ``fused=True`` cannot serve.
        """
        mesh, placements = param.device_mesh, param.placements
        if grad.placements != placements:
            grad = grad.redistribute(mesh, placements)
        tensors = [local(tensor) for tensor in (param, grad, exp_avg, exp_avg_sq)]
        n = block_size(param, method["blocks"])
        k = selected_count(method["fraction"], n)
        # What is random depends on the index in the whole tensor, which the back ends of a process do not know.
        rounds_at_random = is_random(method["rounding"], param)
        random = method["score"] == "random" or rounds_at_random
        layout = find_layout(tuple(param.shape), mesh, placements, method["blocks"], leave_whole=not random)
        if layout is None:
            return [((*tensors, step, seed), dict(method))]
        if k == n and not rounds_at_random:
            return [((*tensors, step, seed), {**method, "blocks": 1, "fraction": 1.0})]
        if group["capturable"]:
            raise NotImplementedError("capturable=True is not supported for sharded parameters: leave it out")
        native = tensors[0].is_cpu and not random
        if group["fused"] and not native:
            raise RuntimeError(
                "fused=True updates sharded parameters on a CPU alone, and not at random (score, rounding): leave it "
                "out to use plain torch"
            )

        self._steps.append(step)
        team = self._team(mesh, layout.mesh_dims, exp_avg.dtype, tensors[0].device)
        first = team.add_blocks(layout, n, k)
        own = []
        for run in layout.runs:
            part = tuple(tensor[run.start : run.stop] for tensor in tensors)
            if run.shared is None:
                own.append(((*part, step.clone(), seed), {**method, "blocks": run.blocks}))
            elif part[0].numel():
                part = (part[0], self._scale.unscaled(part[1]), *part[2:])
                kind = NativeShard if native and uses_native(group, part) else Shard
                team.shards.append(kind(part, int(step) + 1, seed, layout, run, n, first + run.shared, method))
        return own

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

        # Between which two keys the k-th highest of each block probably lies
        n, k = (torch.tensor(numbers, device=self._device) for numbers in (self._n, self._k))
        low, high = self._guess_brackets(n, k)

        # Local: the moments of every entry
        for shard in self.shards:
            shard.update_moments(low, high)

        # Filter: the k-th highest key, and how many of the entries that have it are selected
        highest = torch.full_like(k, self._infinity)
        count = functools.partial(self._count_keys, (low, high))
        keys, selected, equal = self._search((low, high), k, highest, count)

        # Of equal ones the first: the highest of their places, which are counted from the end
        ties = n.clone()  # how many of those with the k-th highest key this process selects
        cut = ((selected < equal) & (keys < self._infinity)).nonzero().squeeze(1)  # where not all of them fit
        if len(cut):
            places = [self._tied_places(block, int(keys[block])) for block in cut.tolist()]
            highest = torch.full_like(cut, self._size)
            brackets = torch.zeros_like(cut), highest
            count = functools.partial(self._count_places, places)
            last, _, _ = self._search(brackets, selected[cut], highest, count)
            ties[cut] = torch.stack([(own >= least).sum() for own, least in zip(places, last, strict=True)])

        # Local: update of the selected
        for shard in self.shards:
            shard.move(keys, ties)
            shard.finish()

    @property
    def _width(self) -> int:
        """As many bits as tell the bins of a block apart."""
        return min(WIDTH, max(1, COUNTS.bit_length() - 1 - len(self._k).bit_length()))

    def _guess_brackets(self, n: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Between which two keys the k-th highest of each block probably lies, from a sample of all processes."""
        shift = max(0, self._infinity.bit_length() - self._width)
        counts = n.new_zeros(len(n), 1 << self._width)
        for shard in self.shards:
            shard.count_sample(shift, counts)
        at_least = _at_least(self._all_reduce(counts))
        size, share = at_least[:, 0], k / n
        # how far off the rank in the sample may be, which is none where it is the whole block
        slack = (SPREAD * (size * share * (1 - share)).sqrt() + 1).masked_fill_(size == n, 0)
        low, high = (
            ((at_least >= rank[:, None]).sum(dim=1) - 1).clamp_(min=0)
            for rank in (size * share + slack, size * share - slack)
        )
        return low << shift, ((high + 1 << shift) - 1).clamp_(max=self._infinity)

    def _count_keys(self, guess: tuple[Tensor, Tensor], low: Tensor, high: Tensor, shift: Tensor) -> Tensor:
        counts = low.new_zeros(len(low), (1 << self._width) + 1)
        guessed = bool(((low >= guess[0]) & (high <= guess[1])).all())
        for shard in self.shards:
            shard.count_keys(low, high, shift, counts, guessed=guessed)
        return counts

    def _count_places(self, places: list[Tensor], low: Tensor, high: Tensor, shift: Tensor) -> Tensor:
        counts = low.new_zeros(len(low), (1 << self._width) + 1)
        for row, own in enumerate(places):
            part = slice(row, row + 1)
            count_bins(own[None], low[part], high[part], shift[part], counts[part])
        return counts

    def _tied_places(self, block: int, key: int) -> Tensor:
        places = [s.tied_places(block, key) for s in self.shards if s.blocks.start <= block < s.blocks.stop]
        return torch.cat(places) if places else torch.empty(0, dtype=torch.int64, device=self._device)

    def _all_reduce(self, counts: Tensor) -> Tensor:
        """The sum over the processes; a parameter that is offloaded to the CPU is counted there and added elsewhere."""
        dtype = torch.int32 if max(self._n) < 2**31 else torch.int64
        total = counts.to(self._mesh.device_type, dtype)
        for dim in self._mesh_dims:
            dist.all_reduce(total, group=self._mesh.get_group(dim))
        return total.to(counts.device, counts.dtype)

    def _search(
        self,
        brackets: tuple[Tensor, Tensor],
        k: Tensor,
        highest: Tensor,
        count: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Find the k-th highest of the numbers of each block, which are spread over the processes.

        Args:
            brackets: the lowest and the highest number that are looked at first, (blocks,) each.
            k: (blocks,).
            highest: the highest number that there may be, (blocks,).
            count: ``count(low, high, shift)`` counts the numbers of this process, (blocks, bins + 1): those from low
                to high by ``(number - low) >> shift``, and in the last column those above.

        Returns:
            (blocks,) each: the numbers, their ranks among the equal ones, and how many equal ones there are.
        """
        low, high = brackets
        while True:
            shift = self._shift(high - low)
            counts = self._all_reduce(count(low, high, shift))
            at_least = _at_least(counts)
            above, reached = at_least[:, -1], at_least[:, 0]
            if ((k > reached) & (low == 0)).any():
                raise RuntimeError(
                    "some entries of sharded blocks did not take part in the step: all processes must call step() with "
                    "gradients of the same parameters"
                )
            bin_ = ((at_least >= k[:, None]).sum(dim=1, keepdim=True) - 1).clamp_(0, counts.shape[1] - 2)
            equal = counts.gather(1, bin_).squeeze(1)
            rank = k - (at_least.gather(1, bin_).squeeze(1) - equal)
            first = low + (bin_.squeeze(1) << shift)
            last = torch.minimum(high, first + (1 << shift) - 1)
            # in the bin, above the bracket or below it
            inside = (k > above) & (k <= reached)
            low, high = (
                torch.where(inside, first, torch.where(k <= above, high + 1, 0)),
                torch.where(inside, last, torch.where(k <= above, highest, low - 1)),
            )
            if (inside & (low == high)).all():
                return low, rank, equal

    def _shift(self, span: Tensor) -> Tensor:
        """By how much numbers up to ``span`` are shifted to the right to be less than the number of bins."""
        return (span.double().frexp().exponent.long() - self._width).clamp_(min=0)


def _at_least(counts: Tensor) -> Tensor:
    """How many numbers are in each bin or a higher one, by how many there are in each, (blocks, bins)."""
    return counts.flip(1).cumsum(1).flip(1)

"""The search for the k-th highest score of blocks that several processes share.

All that the processes must agree on is the k-th highest score of each block, and that takes counts only. Scores are
compared as the integers that have their bits, the keys (`kernels/plain/threshold.py`). A sample brackets the k-th
highest key. Each process counts its keys in 2048 bins of the bracket, and an all-reduce adds the counts up: everyone
then knows in which bin the k-th highest is, or that the sample misled. That is repeated with the bin as the bracket,
until a bin has one key only. Of equal scores the first ones in the full tensor are selected; where not all of them
fit, the place of the last one that does is found likewise.

With one process it is the same code without the all-reduce. How much is sent depends on the number of the tensors, not
on their size.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from mofo.optim.distributed.shard import count_bins
from mofo.optim.kernels.plain.threshold import INFINITY, INTEGER

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh

    from mofo.optim.distributed.layout import Layout
    from mofo.optim.distributed.shards import Shards

WIDTH = 11  # bits of the number of a bin,
COUNTS = 1 << 23  # but fewer where the counts of all blocks would be more than this
WIDE = 1 << 31  # blocks of so many entries need counts of 64 bits
SPREAD = 4.0  # half-width of the sampled bracket, in standard deviations
SAMPLED = -48.0, 16.0  # binary logarithms of the scores between which a sample tells them apart
INCOMPLETE = (
    "some entries of sharded blocks did not take part in the step: all processes must call step() with "
    "gradients of the same parameters"
)


class SharedBlocks:
    """Blocks that are spread over the same processes, and what this process has of them.

    Args:
        mesh: of the processes.
        mesh_dims: its dimensions over which the blocks are spread.
        dtype: of the moments.
        device: of the parameters.
        workspaces: memory that back ends keep from step to step.
    """

    def __init__(
        self,
        mesh: DeviceMesh,
        mesh_dims: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        workspaces: dict[Any, Any],
    ) -> None:
        self._shards: dict[type[Shards], Shards] = {}
        self._workspaces = workspaces
        self._mesh = mesh
        self._mesh_dims = mesh_dims
        self._dtype = dtype
        self._infinity = INFINITY[INTEGER[dtype.itemsize]]
        self._device = device
        self._n: list[int] = []  # of each block, entries in all processes,
        self._k: list[int] = []  # and how many of them move
        self._size = 0  # entries of the largest tensor in all processes

    def number(self, layout: Layout, n: int, k: int) -> int:
        """Give numbers to the shared blocks of a tensor, with n entries of which k move; return the first number."""
        first = len(self._k)
        self._n += [n] * layout.shared
        self._k += [k] * layout.shared
        self._size = max(self._size, layout.size)
        return first

    def shards(self, kind: type[Shards]) -> Shards:
        """Return what this process has of the blocks, as far as one kind of back end updates it."""
        if kind not in self._shards:
            self._shards[kind] = kind(self._workspaces)
        return self._shards[kind]

    def step(self) -> None:
        """Update the entries that this process has of the blocks."""
        if not self._k:
            return  # each process has its blocks to itself

        n, k = (torch.tensor(numbers, device=self._device) for numbers in (self._n, self._k))
        low, high = self._guess_brackets(n, k)

        # Local: the moments of every entry
        for shards in self._shards.values():
            shards.update_moments(low, high)

        # Filter: the k-th highest key, and how many of the entries that have it are selected
        highest = torch.full_like(k, self._infinity)
        keys, selected, equal = self._search((low, high), k, highest, self._count_keys)

        # Of equal ones the first: the highest of their places, which are counted from the end
        ties = n.clone()  # how many of those with the k-th highest key this process selects
        cut = ((selected < equal) & (keys < self._infinity)).nonzero().squeeze(1)  # where not all of them fit
        if len(cut):
            tied = zip(cut.tolist(), keys[cut].tolist(), strict=True)
            places = [self._tied_places(block, key) for block, key in tied]
            highest = torch.full_like(cut, self._size)
            brackets = torch.zeros_like(cut), highest
            count = functools.partial(self._count_places, places)
            last, _, _ = self._search(brackets, selected[cut], highest, count)
            ties[cut] = torch.stack([(own >= least).sum() for own, least in zip(places, last, strict=True)])

        # Local: update of the selected
        for shards in self._shards.values():
            shards.move(keys, ties)
            shards.finish()

    @property
    def _width(self) -> int:
        return bin_bits(len(self._k))

    def _guess_brackets(self, n: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Bracket the k-th highest key of each block, from a sample of all processes."""
        bins = 1 << self._width
        least, shift = sample_bins(self._dtype, self._width)
        counts = self._zeros(len(n), bins)
        for shards in self._shards.values():
            shards.count_sample(least, shift, counts)
        up_to = self._add_up(counts)
        size, share = up_to[:, -1], k / n
        # how far off the rank in the sample may be, which is not at all where it is the whole block
        slack = (SPREAD * (size * share * (1 - share)).sqrt() + 1).masked_fill_(size == n, 0)
        low, high = (
            _bin_of(up_to, (size - rank).floor(), bins) for rank in (size * share + slack, size * share - slack)
        )
        first, last = least + (low << shift), least + (high + 1 << shift) - 1
        return first.masked_fill_(low == 0, 0), last.masked_fill_(high == bins - 1, self._infinity)

    def _count_keys(self, low: Tensor, high: Tensor, shift: Tensor) -> Tensor:
        counts = self._zeros(len(low), (1 << self._width) + 1)
        for shards in self._shards.values():
            shards.count_keys(low, high, shift, counts)
        return counts

    def _count_places(self, places: list[Tensor], low: Tensor, high: Tensor, shift: Tensor) -> Tensor:
        counts = self._zeros(len(low), (1 << self._width) + 1)
        for row, own in enumerate(places):
            part = slice(row, row + 1)
            count_bins(own[None], low[part], high[part], shift[part], counts[part])
        return counts

    def _tied_places(self, block: int, key: int) -> Tensor:
        places = [own for shards in self._shards.values() for own in shards.tied_places(block, key)]
        return torch.cat(places) if places else torch.empty(0, dtype=torch.int64, device=self._device)

    def _add_up(self, counts: Tensor) -> Tensor:
        """Turn counts (blocks, columns) into those of all processes, of each column and all before it.

        Counts of a parameter that is offloaded to the CPU are added on the mesh's device.
        """
        dtype = count_dtype(max(self._n))
        total = self._memory("sent", counts.shape, dtype, torch.device(self._mesh.device_type)).copy_(counts)
        for dim in self._mesh_dims:
            dist.all_reduce(total, group=self._mesh.get_group(dim))
        return counts.copy_(total).cumsum_(dim=1)

    def _zeros(self, blocks: int, columns: int) -> Tensor:
        return self._memory("counts", (blocks, columns), torch.int64, self._device).zero_()

    def _memory(self, use: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return memory that is kept from step to step, not initialised."""
        key, size = (SharedBlocks, use, dtype, device), math.prod(shape)
        if key not in self._workspaces or self._workspaces[key].numel() < size:
            self._workspaces[key] = torch.empty(size, dtype=dtype, device=device)
        kept: Tensor = self._workspaces[key]
        return kept[:size].view(shape)

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
            highest: an upper bound of the numbers, (blocks,).
            count: `count(low, high, shift)` counts the numbers of this process, (blocks, bins + 1): those from low
                to high by `(number - low) >> shift`, and in the last column those above.

        Returns:
            (blocks,) each: the numbers, their ranks among the equal ones, and how many equal ones there are.
        """
        low, high = brackets
        while True:
            shift = self._shift(high - low)
            up_to = self._add_up(count(low, high, shift))
            reached, above = up_to[:, -1], up_to[:, -1] - up_to[:, -2]
            is_above, is_below = k <= above, k > reached
            missing = is_below & (low == 0)
            # The bracket has the k-th highest: go on in its bin.
            bin_ = _bin_of(up_to, reached - k, up_to.shape[1] - 1)
            up_to_bin = up_to.gather(1, bin_[:, None]).squeeze(1)
            rank = k - (reached - up_to_bin)  # among the numbers in its bin
            equal = up_to_bin - up_to.gather(1, (bin_[:, None] - 1).clamp_(min=0)).squeeze(1).where(bin_ > 0, 0)
            first = low + (bin_ << shift)
            last = torch.minimum(high, first + (1 << shift) - 1)
            # The sample misled: go on in all that is above the bracket, or in all below it.
            first = first.where(~is_above, high + 1).where(~is_below, 0)
            last = last.where(~is_above, highest).where(~is_below, low - 1)
            low, high = first, last
            settled = ~is_above & ~is_below & (low == high)
            # The host must know whether there is another message to be sent: it waits for the device once a round.
            is_incomplete, is_over = torch.stack([missing.any(), settled.all()]).tolist()
            if is_incomplete:
                raise RuntimeError(INCOMPLETE)
            if is_over:
                return low, rank, equal

    def _shift(self, span: Tensor) -> Tensor:
        """Return by how much numbers up to `span` are shifted to the right to be less than the number of bins."""
        return (span.double().frexp().exponent.long() - self._width).clamp_(min=0)


def bin_bits(blocks: int) -> int:
    """Return how many bits distinguish the bins of a block, where so many are searched together."""
    return min(WIDTH, max(1, COUNTS.bit_length() - 1 - blocks.bit_length()))


@functools.cache
def sample_bins(dtype: torch.dtype, bits: int) -> tuple[int, int]:
    """Return the first key of the first of 2^bits bins of a sample of scores, and by how much the keys are shifted."""
    least, most = (int(torch.tensor(2.0**each, dtype=dtype).view(INTEGER[dtype.itemsize])) for each in SAMPLED)
    return least, (most - least).bit_length() - 1 - bits


def count_dtype(n: int) -> torch.dtype:
    """Return the type of the counts that are sent, for blocks of at most n entries."""
    return torch.int32 if n < WIDE else torch.int64


def _bin_of(up_to: Tensor, below: Tensor, bins: int) -> Tensor:
    """Return the bin of each block that has the number above the lowest `below` (blocks,) ones, or the nearest bin.

    `up_to` (blocks, columns) has how many numbers are in each column and all before it; the first `bins` are bins.
    """
    return torch.searchsorted(up_to, below[:, None].long(), right=True).squeeze(1).clamp_(max=bins - 1)

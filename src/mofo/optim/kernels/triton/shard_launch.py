"""A sharded step on a GPU: its tables, and its phases, each of which is launched for all shards together."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, NamedTuple

import torch

from mofo.optim.kernels.triton import kernels, shard_kernels, tables
from mofo.optim.kernels.triton.launch import DTYPES, SCORE_NUMBERS, WARPS
from mofo.optim.kernels.triton.packing import Tables, current, list_work, programs_at_once, warps_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from mofo.optim.distributed.layout import Layout
    from mofo.optim.rule.types import Score

WIDTH = 1024  # blocks that are looked at together when the search is concluded


class ShardConfig(NamedTuple):
    """How the kernels make a sharded step. Nothing here changes a result."""

    # of all processes alike
    counts: torch.dtype = torch.int32
    bits: int = 11  # of the number of a bin
    least: int = 0x27800000  # the bin of a sampled key is (key - least) >> shift, or the first or the last
    shift: int = 18
    spread: float = 4.0  # half-width of the sampled bracket, in standard deviations
    # of each
    chunk: int = 4096  # entries for one program; at most 2^14
    tile: int = 256  # selected entries are moved this many at a time
    pool_share: int = 32  # the pool of a block holds its entries divided by this
    programs: int | None = None  # that share all chunks when entries move; None: four for each multiprocessor


class Kind(NamedTuple):
    """Shards for which the same machine code serves."""

    param: torch.dtype
    grad: torch.dtype
    score: Score
    stochastic: bool


class Part(NamedTuple):
    """What this process has of consecutive shared blocks of a tensor."""

    kind: Kind
    tensor: int  # number of the tensor,
    first: int  # of the first block among the shared ones of the step,
    blocks: int  # and how many there are
    n: int  # entries of each that are here
    stride: int  # every so many of them one is sampled
    offset: int  # index in the local tensor of the first


class Whole(NamedTuple):
    """A tensor that several processes share, as all of them know it."""

    shared: int  # blocks
    n: int  # entries of a block
    layout: int  # number among the different layouts


class Report(NamedTuple):
    """What the host must know to go on."""

    unsettled: int  # blocks whose k-th highest key is not known yet
    incomplete: int  # blocks of which entries are missing
    tied: int  # blocks whose places are to be searched


class ShardWorkspace:
    """Tables and scratch memory on a device for the shards of a step.

    The rows of the table of tensors are those of the parts, and then one for each tensor.

    Args:
        device: of the shards.
        wholes: the tensors.
        parts: what this process has of them.
        layouts: the different ones of the tensors.
        config: how the kernels work.

    Attributes:
        counts: (blocks, bins + 1), of each bin and of what is above, to be added up over the processes.
        sample: (blocks, bins), the same memory, for the first of the counts.
    """

    def __init__(
        self,
        device: torch.device,
        wholes: Sequence[Whole],
        parts: Sequence[Part],
        layouts: Sequence[Layout],
        config: ShardConfig,
    ) -> None:
        self._key = tuple(wholes), tuple(parts), config
        self._layouts = list(layouts)  # kept, so that no other can be taken for one of them
        self._device, self._config = device, config
        self._shared = sum(whole.shared for whole in wholes)
        self._largest = max(layout.size for layout in layouts)

        packed, starts = _pack_layouts(layouts)
        rows = []
        for part in parts:
            number = wholes[part.tensor].layout
            rows.append([part.stride, part.offset, starts[number], layouts[number].size])
        self._parts = torch.tensor(rows, dtype=torch.int64).view(-1, tables.PART.value).to(device)
        self._packed_layouts = packed.to(device)
        blocks, pooled = _describe_blocks(wholes, parts, config)
        self._blocks = blocks.to(device)
        self._states = torch.zeros((self._shared, tables.SHARED_STATE.value), dtype=torch.int64, device=device)
        self._report = torch.zeros(tables.REPORT.value, dtype=torch.int64, device=device)
        self._pools = torch.empty(pooled, dtype=torch.int32, device=device)
        self.counts = torch.zeros((self._shared, (1 << config.bits) + 1), dtype=config.counts, device=device)
        self.sample = self.counts.view(-1)[: self._shared << config.bits].view(self._shared, -1)

        self._work: dict[Kind, tuple[Tensor, Tensor]] = {}  # programs for all entries, and for those of the sample
        for kind in dict.fromkeys(part.kind for part in parts):
            own = [(part.first + i, part) for part in parts if part.kind == kind for i in range(part.blocks)]
            entries = [(block, part.n) for block, part in own]
            sampled = [(block, -(-part.n // part.stride)) for block, part in own]
            self._work[kind] = list_work(entries, config.chunk, device), list_work(sampled, config.chunk, device)
        chunks = max((len(entries) for entries, _ in self._work.values()), default=0)
        self._programs = min(config.programs or programs_at_once(device), chunks)
        self._lists = torch.empty((self._programs, config.chunk), dtype=torch.int16, device=device)
        self._tables = Tables(len(parts) + len(wholes), device)
        self._zero = torch.zeros((), device=device)
        self._one = torch.ones((), device=device)

    def fits(
        self, wholes: Sequence[Whole], parts: Sequence[Part], layouts: Sequence[Layout], config: ShardConfig
    ) -> bool:
        """Check whether it was made for such shards."""
        same = len(layouts) == len(self._layouts) and all(map(operator.is_, layouts, self._layouts))
        return same and self._key == (tuple(wholes), tuple(parts), config)

    @property
    def held(self) -> list[Tensor]:
        """The tensors on the device that it keeps from step to step."""
        own = [*vars(self).values(), *(value for name, value in vars(self._tables).items() if name != "_staging")]
        work = [tensor for both in self._work.values() for tensor in both]
        return [tensor for tensor in (*own, *work) if isinstance(tensor, torch.Tensor) and tensor is not self.sample]

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that it keeps from step to step."""
        return sum(tensor.nbytes for tensor in self.held)

    @property
    def least_rounds(self) -> int:
        """Rounds without which no search for keys ends, but where they are infinite."""
        return -(-self._config.shift // self._config.bits)

    @property
    def place_rounds(self) -> int:
        """Rounds after which every search for places has ended."""
        return -(-self._largest.bit_length() // self._config.bits)

    def begin(self, rows: bytes, grad_scale: Tensor | None) -> None:
        """Upload the rows of the tensors, and compute the numbers of the step."""
        with current(self._device):
            self._tables.upload(rows)
            self.counts.zero_()  # which it is, unless a step was broken off
            scale = self._one if grad_scale is None else grad_scale.to(self._device, torch.float32, non_blocking=True)
            kernels.prepare[(len(self._tables.tensors),)](
                *self._tables.rows, self._tables.pending, self._zero, scale, COUNT=False, num_warps=1
            )

    def count_sample(self) -> None:
        """Count the keys of a sample into `sample`."""
        for kind, _, work in self._kinds():
            shard_kernels.count_sample[(len(work),)](
                *self._described, self.counts, work,
                **_of_grad(kind), **self._sizes, LEAST=self._config.least, SHIFT=self._config.shift, num_warps=WARPS,
            )  # fmt: skip

    def guess_brackets(self) -> None:
        """Bracket the k-th highest key of each block, from the sums of `sample`."""
        with current(self._device):
            shard_kernels.guess_brackets[(self._shared,)](
                self._tables.tensors, self._blocks, self._states, self.counts,
                SPREAD=self._config.spread, BINS=1 << self._config.bits, LEAST=self._config.least,
                SHIFT=self._config.shift, num_warps=WARPS, enable_fp_fusion=False,
            )  # fmt: skip

    def update_moments(self) -> None:
        """Update the moments of all entries, and count the keys in the brackets into `counts`."""
        for kind, work, _ in self._kinds():
            shard_kernels.update_moments_and_collect[(len(work),)](
                *self._described, self._states, self._pools, self.counts, work,
                **_of_grad(kind), **self._sizes, num_warps=WARPS,
            )  # fmt: skip

    def count_keys(self) -> None:
        """Count the keys in the brackets of the blocks that are not settled into `counts`."""
        for kind, work, _ in self._kinds():
            shard_kernels.count_in_bins[(len(work),)](
                *self._described, self._states, self._pools, self.counts, work,
                **_of_grad(kind), **self._sizes, num_warps=WARPS,
            )  # fmt: skip

    def count_places(self) -> None:
        """Count the places of tied entries into the first rows of `counts`."""
        for kind, work, _ in self._kinds():
            shard_kernels.count_places[(len(work),)](
                *self._described, self._states, self.counts, work, **_of_grad(kind), **self._sizes, num_warps=WARPS
            )

    def narrow_brackets(self, *, first: bool = False, places: bool = False) -> None:
        """Narrow the brackets, of keys or places, by the sums of `counts`; by the first ones, or later ones."""
        with current(self._device):
            shard_kernels.narrow_brackets[(self._shared,)](
                self._states, self.counts, BINS=1 << self._config.bits, FIRST=first, PLACES=places, num_warps=WARPS
            )

    def conclude(self) -> Report:
        """Report what is left to do, which waits for the device."""
        with current(self._device):
            shard_kernels.conclude[(1,)](
                self._states, self._report, self._shared, self._largest,
                BINS=1 << self._config.bits, WIDTH=WIDTH, num_warps=warps_for(WIDTH),
            )  # fmt: skip
            return Report(*self._report.tolist())

    def move(self) -> None:
        """Update the selected entries."""
        config = self._config
        for kind, work, _ in self._kinds():
            programs = min(self._programs, len(work))
            shard_kernels.move_selected[(programs,)](
                *self._described, self._states, self._lists, work, len(work), programs,
                **_of_grad(kind), P=DTYPES[kind.param], STOCHASTIC=kind.stochastic,
                CHUNK=config.chunk, TILE=config.tile, num_warps=WARPS,
            )  # fmt: skip

    def _kinds(self) -> Iterator[tuple[Kind, Tensor, Tensor]]:
        """Yield each kind of shards with the programs for all entries and for the sample."""
        with current(self._device):
            for kind, (entries, sampled) in self._work.items():
                yield kind, entries, sampled

    @property
    def _described(self) -> tuple[Tensor, ...]:
        """The tables that the kernels of the local phases take first."""
        return *self._tables.rows, self._parts, self._packed_layouts, self._blocks

    @property
    def _sizes(self) -> dict[str, int]:
        return {"CHUNK": self._config.chunk, "BINS": 1 << self._config.bits}


def _of_grad(kind: Kind) -> dict[str, object]:
    return {"G": DTYPES[kind.grad], "SCORE": SCORE_NUMBERS[kind.score], "enable_fp_fusion": False}


def _describe_blocks(wholes: Sequence[Whole], parts: Sequence[Part], config: ShardConfig) -> tuple[Tensor, int]:
    """Return the table of the shared blocks, and how many keys their pools hold together."""
    row_of_whole = [len(parts) + tensor for tensor, whole in enumerate(wholes) for _ in range(whole.shared)]
    entries = [whole.n for whole in wholes for _ in range(whole.shared)]
    blocks = torch.zeros((len(entries), tables.SHARED_BLOCK.value), dtype=torch.int64)
    blocks[:, tables.WHOLE.value] = torch.tensor(row_of_whole)
    blocks[:, tables.ENTRIES_OF_ALL.value] = torch.tensor(entries)
    pooled = 0
    for row, part in enumerate(parts):
        capacity = part.n // config.pool_share
        own = blocks[part.first : part.first + part.blocks]
        own[:, tables.TENSOR.value] = row
        own[:, tables.NUMBER.value] = torch.arange(part.blocks)
        own[:, tables.POOL.value] = pooled + torch.arange(part.blocks) * capacity
        own[:, tables.CAPACITY.value] = capacity
        pooled += part.blocks * capacity
    return blocks, pooled


def _pack_layouts(layouts: Sequence[Layout]) -> tuple[Tensor, list[int]]:
    """Pack layouts as `index_in_full` reads them; return where each begins."""
    packed: list[Tensor] = []
    starts, end = [], 0
    for layout in layouts:
        starts.append(end)
        head = [len(layout.indices)]
        end += 1 + tables.DIMENSION.value * len(layout.indices)
        for indices, stride in zip(reversed(layout.indices), reversed(layout.strides), strict=True):
            head += [len(indices), stride, end]
            end += len(indices)
        packed += [torch.tensor(head), *reversed(layout.indices)]
    return torch.cat(packed), starts

"""A step on a GPU: the tables of its tensors, and the phases that are launched for all of them together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import triton.language as tl

from mofo.optim.kernels.memory import holds_its_data
from mofo.optim.kernels.triton import kernels, tables
from mofo.optim.kernels.triton.packing import (
    Block,
    Tables,
    check_overlap,
    counts_on_host,
    current,
    is_aligned,
    is_capturing,
    list_work,
    pack_row,
    programs_at_once,
    rate_on_device,
    warps_for,
)
from mofo.optim.rule.rounding import rounds_at_random
from mofo.optim.rule.scores import SCORES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from mofo.optim.rule.types import Operands, Rule, Score

    Constants = Mapping[str, object]  # constants of a kernel, and its launch options

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
SCORE_NUMBERS = {score: number for number, score in enumerate(SCORES)}
MAX_ENTRIES = 2**31 - 1  # positions are 32-bit integers
LINE = 8  # entries that are sampled together: what a GPU reads at least of float32
WARPS = 8  # of a program for a chunk
KEY_BITS = 31


@dataclass(frozen=True)
class TritonConfig:
    """How the kernels make a step. Nothing here changes a result; tests try other values, to make small blocks large.

    Raises:
        ValueError: chunk is too large.
    """

    widths: tuple[int, ...] = (1024, 8192, 32768)  # blocks up to these sizes are small: one program for each
    sample_pairs: int = 1024  # pairs of lines that are sampled of a large block
    spread: float = 3.0  # half-width of the bracket around the sampled threshold, in standard deviations
    chunk: int = 4096  # entries of a large block for one program
    bins: int = 2048
    pool: int = 8192  # largest number of entries that the pool of a block holds
    pool_share: int = 1024  # the pool of a smaller block holds its entries divided by `pool_share`
    least_pool: int = 64  # smallest number of entries that a pool holds
    programs: int | None = None  # that share all chunks in the later phases; None: four for each multiprocessor
    tile: int = 256  # entries that reach the bracket are moved this many at a time

    def __post_init__(self) -> None:
        if self.chunk > 1 << 14:
            raise ValueError(f"chunk must be at most {1 << 14}, got {self.chunk}")


class Variant(NamedTuple):
    """Tensors for which the same machine code serves."""

    device: torch.device
    param: torch.dtype
    grad: torch.dtype
    score: Score
    stochastic: bool
    aligned: bool


class Partition(NamedTuple):
    """The blocks of a tensor."""

    blocks: int
    n: int  # entries of a block
    all_move: bool  # every entry is updated: then the tensor is one block


class Launch:
    """The tensors of one step, of all groups.

    Args:
        workspaces: tables and scratch memory, kept from step to step by the caller. They are no state: their content is
            made again at every step, and memory is taken only where the tensors differ from those of the step before.
        config: how the kernels work.
        found_inf: scalar on a device; if it is not 0, the step changes nothing.
        grad_scale: scalar on a device, by which gradients are divided.
    """

    def __init__(
        self,
        workspaces: dict[Variant, Workspace],
        config: TritonConfig | None = None,
        found_inf: Tensor | None = None,
        grad_scale: Tensor | None = None,
    ) -> None:
        self._workspaces = workspaces
        self._config = config or TritonConfig()
        self._found_inf = found_inf
        self._grad_scale = grad_scale
        self._rows: dict[Variant, list[bytes]] = {}
        self._partitions: dict[Variant, list[Partition]] = {}
        self._tensors: dict[Variant, list[tuple[Tensor, ...]]] = {}  # kept until the step is launched
        self._steps: list[Tensor] = []  # those on the host
        self._empty: list[Tensor] = []  # steps of tensors without entries

    def add(self, operands: Operands, rule: Rule) -> None:
        """Take a tensor that `can_update` accepts.

        Its step may be on the host or on the tensor's device, where it is read and counted then. So is `rule.lr` read
        if it is a tensor there.
        """
        param, grad, exp_avg, exp_avg_sq, step, _ = operands
        if param.numel() == 0:
            self._empty.append(step)
            return
        n, k = rule.sizes(param)
        partition = Partition(1, param.numel(), True) if k == n else Partition(rule.blocks, n, False)
        tensors: tuple[Tensor, ...] = (param, grad, exp_avg, exp_avg_sq)
        aligned = is_aligned(tensors, partition.n)
        stochastic = rounds_at_random(rule.rounding, param)
        variant = Variant(param.device, param.dtype, grad.dtype, rule.score, stochastic, aligned)
        if counts_on_host(step):
            self._steps.append(step)
        rate = rate_on_device(rule.lr, param.device)
        if rate is not None:
            tensors = (*tensors, rate)
        self._tensors.setdefault(variant, []).append(tensors)
        self._partitions.setdefault(variant, []).append(partition)
        row = pack_row(operands, rule, Block(partition.n, k, aligned), rate)
        self._rows.setdefault(variant, []).append(row)

    def run(self) -> None:
        """Update the tensors that were added. The host does not wait for the device.

        Raises:
            RuntimeError: tensors overlap in memory, or a graph is captured that would not know of this step's numbers;
                nothing was written then.
        """
        others = [variant for variant in self._partitions if not self._has_workspace(variant)]
        if others:
            check_overlap([tensors for of_variant in self._tensors.values() for tensors in of_variant])
        for variant in others:
            _check_capture(variant, "the tensors differ from those of the step before it: make a step first")
            self._workspaces[variant] = Workspace(variant, self._partitions[variant], self._config)
        for variant, packed in self._rows.items():
            if self._steps:
                _check_capture(variant, "the steps are counted on the host: capturable=True counts them on the device")
            self._workspaces[variant].run(b"".join(packed), self._found_inf, self._grad_scale)
        for steps in (self._steps, self._empty):
            if steps:
                torch._foreach_add_(steps, 1)

    def _has_workspace(self, variant: Variant) -> bool:
        workspace = self._workspaces.get(variant)
        return workspace is not None and workspace.fits(self._partitions[variant], self._config)


class LargeBlocks:
    """Tables and scratch memory on the device for blocks that are too large for one program."""

    def __init__(self, partitions: list[Partition], config: TritonConfig, device: torch.device) -> None:
        large = [
            (tensor, number, partition.n)
            for tensor, partition in enumerate(partitions)
            if not partition.all_move and partition.n > config.widths[-1]
            for number in range(partition.blocks)
        ]
        self.work = list_work([(block, n) for block, (_, _, n) in enumerate(large)], config.chunk, device)
        capacities = [min(max(n // config.pool_share, config.least_pool), config.pool) for _, _, n in large]
        starts = [0]
        for capacity in capacities:
            starts.append(starts[-1] + capacity)
        blocks = [[t, number, starts[i], capacities[i]] for i, (t, number, _) in enumerate(large)]
        self.blocks = torch.tensor(blocks, dtype=torch.int64).view(-1, tables.BLOCK.value).to(device)
        self.states = torch.zeros((len(large), tables.STATE.value), dtype=torch.int64, device=device)
        self.bins = torch.zeros((len(large), config.bins), dtype=torch.int32, device=device)
        self.pools = torch.empty(starts[-1], dtype=torch.int32, device=device)
        # The first round may do no more than show that the sample misled. Each later one leaves one bin of a bracket.
        bits = [
            KEY_BITS + (n - 1).bit_length() - math.log2(capacity)
            for (_, _, n), capacity in zip(large, capacities, strict=True)
        ]
        self.rounds = 1 + math.ceil(max(bits, default=0) / math.log2(config.bins))
        self.programs = min(config.programs or programs_at_once(device), len(self.work))
        self.lists = torch.empty((self.programs, config.chunk), dtype=torch.int16, device=device)


class Workspace:
    """Tables and scratch memory on the device for tensors of one variant.

    Args:
        variant: of all the tensors.
        partitions: of each.
        config: how the kernels work.
    """

    def __init__(self, variant: Variant, partitions: list[Partition], config: TritonConfig) -> None:
        self._variant, self._partitions, self._config = variant, list(partitions), config
        device = variant.device
        self._all_moving = list_work([(i, p.n) for i, p in enumerate(partitions) if p.all_move], config.chunk, device)
        self._small: list[tuple[int, Tensor]] = []
        for low, width in zip((0, *config.widths), config.widths, strict=False):
            chosen = [(i, p.blocks) for i, p in enumerate(partitions) if not p.all_move and low < p.n <= width]
            if chosen:
                self._small.append((width, list_work(chosen, 1, device)))
        self._large = LargeBlocks(partitions, config, device)
        self._tables = Tables(len(partitions), device)
        self._zero = torch.zeros((), device=device)
        self._one = torch.ones((), device=device)

    def fits(self, partitions: list[Partition], config: TritonConfig) -> bool:
        """Check whether it was made for such tensors."""
        return self._partitions == partitions and self._config == config

    @property
    def held(self) -> list[Tensor]:
        """The tensors on the device that it keeps from step to step."""
        parts = (vars(self), vars(self._tables), vars(self._large))
        own = [value for part in parts for name, value in part.items() if name != "_staging"]  # that is on the host
        return [tensor for tensor in (*own, *(work for _, work in self._small)) if isinstance(tensor, torch.Tensor)]

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that it keeps from step to step."""
        return sum(tensor.nbytes for tensor in self.held)

    def run(self, rows: bytes, found_inf: Tensor | None, grad_scale: Tensor | None) -> None:
        """Make one step of the tensors whose rows these are."""
        device = self._variant.device
        with current(device):
            self._tables.upload(rows)
            self._launch(
                self._zero if found_inf is None else found_inf.to(device, non_blocking=True),
                self._one if grad_scale is None else grad_scale.to(device, non_blocking=True),
            )

    def _launch(self, found_inf: Tensor, grad_scale: Tensor) -> None:
        """Launch the phases of a step. A phase is one launch for all tensors."""
        variant, config, rows = self._variant, self._config, self._tables.rows
        of_grad: dict[str, object] = {"G": DTYPES[variant.grad], "enable_fp_fusion": False}
        of_param = {**of_grad, "P": DTYPES[variant.param], "STOCHASTIC": variant.stochastic}
        score, aligned = {"SCORE": SCORE_NUMBERS[variant.score]}, {"ALIGNED": variant.aligned}

        kernels.prepare[(len(self._partitions),)](
            *rows, self._tables.pending, found_inf, grad_scale, COUNT=True, num_warps=1
        )
        if len(self._all_moving):
            kernels.update_everything[(len(self._all_moving),)](
                *rows, self._all_moving, **of_param, **aligned, CHUNK=config.chunk, num_warps=WARPS
            )
        for width, work in self._small:
            kernels.update_small_block[(len(work),)](
                *rows, work, **of_param, **score, **aligned, WIDTH=width, num_warps=warps_for(width)
            )
        if len(self._large.blocks):
            self._launch_large(of_grad | score, of_param | score, aligned)

    def _launch_large(self, of_grad: Constants, of_param: Constants, aligned: Constants) -> None:
        """Launch the phases of blocks that are too large for one program."""
        config, large, rows, pending = self._config, self._large, self._tables.rows, self._tables.pending
        blocks, states, bins, pools = large.blocks, large.states, large.bins, large.pools
        chunk, bin_count = {"CHUNK": config.chunk, "num_warps": WARPS}, {"BINS": config.bins}
        sample = {"PAIRS": config.sample_pairs, "LINE": LINE, "SPREAD": config.spread}
        each_block, each_chunk, shared_chunks = (len(blocks),), (len(large.work),), (large.programs,)
        stride = (len(large.work), large.programs)

        kernels.guess_bracket[each_block](
            *rows, blocks, states, bins, **of_grad, **sample, **bin_count,
            num_warps=warps_for(2 * LINE * config.sample_pairs),
        )  # fmt: skip
        kernels.update_moments_and_count[each_chunk](
            *rows, blocks, states, bins, large.work, **of_grad, **aligned, **chunk, **bin_count
        )
        for round_ in range(large.rounds):
            if round_:
                kernels.count_in_bins[shared_chunks](
                    *rows, blocks, states, bins, pending, large.work, *stride,
                    **of_grad, **aligned, **chunk, **bin_count, ROUND=round_,
                )  # fmt: skip
            kernels.narrow_bracket[each_block](*rows[:2], blocks, states, bins, pending, **bin_count, ROUND=round_)
        kernels.move_above[shared_chunks](
            *rows, blocks, states, pools, large.lists, large.work, *stride,
            **of_param, **aligned, **chunk, TILE=config.tile,
        )  # fmt: skip
        kernels.move_from_pool[each_block](
            *rows, blocks, states, pools, **of_param, WIDTH=config.pool, num_warps=warps_for(config.pool)
        )


def can_update(*tensors: Tensor) -> bool:
    """Check whether the kernels can update a parameter, given alone or with its gradient and moments."""
    first = tensors[0]
    return (
        first.numel() <= MAX_ENTRIES
        and can_read(*tensors)
        and all(tensor.is_contiguous() and not tensor.is_neg() for tensor in tensors)
    )


def can_read(*tensors: Tensor) -> bool:
    """Check whether the kernels can update contiguous copies of a parameter and the others."""
    first = tensors[0]
    for position, tensor in enumerate(tensors):
        if tensor.device != first.device or tensor.dtype not in DTYPES or tensor.layout is not torch.strided:
            return False
        if position >= 2 and tensor.dtype is not torch.float32:
            return False
        if tensor.shape != first.shape or not holds_its_data(tensor):
            return False
    return True


def _check_capture(variant: Variant, reason: str) -> None:
    if is_capturing(variant.device):
        raise RuntimeError(f"this step cannot be captured in a CUDA graph, because {reason}")

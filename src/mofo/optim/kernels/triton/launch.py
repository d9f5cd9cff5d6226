"""A step on a GPU: the tables of its tensors, and the phases that are launched for all of them together."""

from __future__ import annotations

import contextlib
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import torch
import triton.language as tl

from mofo.optim.kernels.cpu.library import holds_its_data
from mofo.optim.kernels.triton import kernels, tables
from mofo.optim.rule.blocks import block_size, selected_count
from mofo.optim.rule.rounding import is_random
from mofo.optim.rule.scores import Score

if TYPE_CHECKING:
    from torch import Tensor

    from mofo.optim.rule.rounding import Rounding
    from mofo.optim.rule.update import Decay

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
SCORES = {score: number for number, score in enumerate(get_args(Score))}
ALIGNMENT = 16  # bytes that a thread reads at once, and entries whose bytes are a multiple of that in every type
MAX_ENTRIES = 2**31 - 1  # positions are 32-bit integers
LINE = 8  # entries that are sampled together: what a GPU reads at least of float32
HOST = torch.device("cpu")
WARPS = 8  # of a program for a chunk
KEY_BITS = 31

ROW = struct.Struct("=12q6d")  # of the table of tensors, see tables.py


@dataclass(frozen=True)
class Settings:
    """How a step is computed. None of it changes a result; the tests try others, to make small blocks large."""

    widths: tuple[int, ...] = (1024, 8192, 32768)  # blocks up to these sizes are small: one program for each
    sample_pairs: int = 1024  # pairs of lines that are sampled of a large block
    spread: float = 3.0  # half-width of the bracket around the sampled threshold, in standard deviations
    chunk: int = 4096  # entries of a large block for one program
    bins: int = 2048
    pool: int = 8192  # entries that the pool of a block holds at most,
    pool_share: int = 1024  # and one entry in so many of a smaller block,
    least_pool: int = 64  # but no fewer than these
    programs: int | None = None  # that share all chunks in the later phases; None: four for each multiprocessor
    tile: int = 256  # of the entries that reach the bracket, so many are moved together

    def __post_init__(self) -> None:
        if self.chunk > 1 << 14:
            raise ValueError(f"chunk must be at most {1 << 14}, got {self.chunk}")


class Kind(NamedTuple):
    """Tensors for which the same machine code serves."""

    device: torch.device
    param: torch.dtype
    grad: torch.dtype
    score: Score
    stochastic: bool
    aligned: bool


class Shape(NamedTuple):
    """How the entries of a tensor compete."""

    blocks: int
    n: int
    whole: bool  # all entries move: then the tensor is one block


class TritonStep:
    """The tensors of one step, of all groups.

    Args:
        workspaces: tables and scratch memory, kept from step to step by the caller. They are no state: what they hold
            is made again at every step, and memory is taken only where the tensors are others than the step before.
        found_inf: scalar on a device; if it is not 0, the step changes nothing.
        grad_scale: scalar on a device, by which gradients are divided.
    """

    def __init__(
        self,
        workspaces: dict[Kind, Workspace],
        settings: Settings | None = None,
        found_inf: Tensor | None = None,
        grad_scale: Tensor | None = None,
    ) -> None:
        self._workspaces = workspaces
        self._settings = settings or Settings()
        self._found_inf = found_inf
        self._grad_scale = grad_scale
        self._rows: dict[Kind, list[bytes]] = {}
        self._shapes: dict[Kind, list[Shape]] = {}
        self._operands: dict[Kind, list[tuple[Tensor, ...]]] = {}
        self._steps: list[Tensor] = []  # those on the host

    def add(
        self,
        param: Tensor,  # float32, bfloat16 or float16, contiguous
        grad: Tensor,  # of these types, shape of param, contiguous
        exp_avg: Tensor,  # shape of param, float32, contiguous
        exp_avg_sq: Tensor,  # as exp_avg
        step: Tensor,  # float32 scalar, number of steps before this one; on the host or on the device of param
        seed: int,
        *,
        lr: float | Tensor,  # a tensor on a device is read there
        fraction: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        blocks: int,
        score: Score,
        decay: Decay,
        maximize: bool,
        rounding: Rounding,
    ) -> None:
        """Take the arguments of :func:`mofo.optim.rule.update.update`, for tensors that :func:`serves`."""
        if param.numel() == 0:
            torch._foreach_add_([step], 1)
            return
        n = block_size(param, blocks)
        k = selected_count(fraction, n)
        shape = Shape(1, param.numel(), True) if k == n else Shape(blocks, n, False)
        operands: tuple[Tensor, ...] = (param, grad, exp_avg, exp_avg_sq)
        addresses = [operand.data_ptr() for operand in operands]
        aligned = not any(address % ALIGNMENT for address in addresses) and shape.n % ALIGNMENT == 0
        kind = Kind(param.device, param.dtype, grad.dtype, score, is_random(rounding, param), aligned)
        on_device = step.device != HOST
        if not on_device:
            self._steps.append(step)
        rate = None
        if isinstance(lr, torch.Tensor) and lr.device != HOST:
            rate = lr.to(device=param.device, dtype=torch.float32)
            operands = (*operands, rate)
        beta1, beta2 = betas
        self._operands.setdefault(kind, []).append(operands)
        self._shapes.setdefault(kind, []).append(shape)
        self._rows.setdefault(kind, []).append(
            ROW.pack(
                *addresses,
                step.data_ptr() if on_device else 0,
                0 if rate is None else rate.data_ptr(),
                shape.n,
                (shape.n - 1).bit_length(),
                k,
                seed,
                maximize,
                decay == "all",
                0.0 if on_device else float(step),
                float(lr) if rate is None else 0.0,
                beta1,
                beta2,
                eps,
                weight_decay,
            )
        )

    def run(self) -> None:
        """Update the tensors that were added. The host does not wait for the device.

        Raises:
            RuntimeError: tensors overlap in memory, or a graph is captured that would not know of this step's numbers;
                nothing was written then.
        """
        others = [kind for kind in self._shapes if not self._has_workspace(kind)]
        if others:
            _check_overlap([operands for of_kind in self._operands.values() for operands in of_kind])
        for kind in others:
            _check_capture(kind, "the tensors are others than in the step before it: make a step first")
            self._workspaces[kind] = Workspace(kind, self._shapes[kind], self._settings)
        for kind, rows in self._rows.items():
            if self._steps:
                _check_capture(kind, "the steps are counted on the host: capturable=True keeps the count on the device")
            self._workspaces[kind].run(b"".join(rows), self._found_inf, self._grad_scale)
        if self._steps:
            torch._foreach_add_(self._steps, 1)

    def _has_workspace(self, kind: Kind) -> bool:
        workspace = self._workspaces.get(kind)
        return workspace is not None and workspace.fits(self._shapes[kind], self._settings)


class Workspace:
    """Tables and scratch memory on the device for tensors of one kind.

    Args:
        kind: of all the tensors.
        shapes: of each.
        settings: how the step is computed.
    """

    def __init__(self, kind: Kind, shapes: list[Shape], settings: Settings) -> None:
        self._kind, self._shapes, self._settings = kind, list(shapes), settings
        device = kind.device
        self._whole = _work(
            [(tensor, shape.n) for tensor, shape in enumerate(shapes) if shape.whole], settings.chunk, device
        )
        self._small: list[tuple[int, Tensor]] = []
        for low, width in zip((0, *settings.widths), settings.widths, strict=False):
            chosen = [(i, s.blocks) for i, s in enumerate(shapes) if not s.whole and low < s.n <= width]
            if chosen:
                self._small.append((width, _work(chosen, 1, device)))
        large = [
            (tensor, number, shape.n)
            for tensor, shape in enumerate(shapes)
            if not shape.whole and shape.n > settings.widths[-1]
            for number in range(shape.blocks)
        ]
        self._large = _work([(block, n) for block, (_, _, n) in enumerate(large)], settings.chunk, device)
        capacities = [min(max(n // settings.pool_share, settings.least_pool), settings.pool) for _, _, n in large]
        starts = [0]
        for capacity in capacities:
            starts.append(starts[-1] + capacity)
        blocks = [[t, number, starts[i], capacities[i]] for i, (t, number, _) in enumerate(large)]
        self._blocks = torch.tensor(blocks, dtype=torch.int64).view(-1, tables.BLOCK.value).to(device)
        self._states = torch.zeros((len(large), tables.STATE.value), dtype=torch.int64, device=device)
        self._bins = torch.zeros((len(large), settings.bins), dtype=torch.int32, device=device)
        self._pools = torch.empty(starts[-1], dtype=torch.int32, device=device)
        # The first round may do no more than show that the sample misled. Each later one leaves one bin of a bracket.
        bits = [
            KEY_BITS + (n - 1).bit_length() - math.log2(capacity)
            for (_, _, n), capacity in zip(large, capacities, strict=True)
        ]
        self._rounds = 1 + math.ceil(max(bits, default=0) / math.log2(settings.bins))
        self._programs = min(settings.programs or _programs(device), len(self._large))
        self._lists = torch.empty((self._programs, settings.chunk), dtype=torch.int16, device=device)
        self._pending = torch.zeros(tables.MAX_ROUNDS.value, dtype=torch.int32, device=device)

        self._rows = b""
        self._tensors = torch.empty((len(shapes), tables.COLUMNS.value), dtype=torch.int64, device=device)
        self._numbers = torch.empty((len(shapes), tables.NUMBERS.value), dtype=torch.float32, device=device)
        self._hash_keys = torch.empty((len(shapes), 2), dtype=torch.int64, device=device)
        self._zero = torch.zeros((), device=device)
        self._one = torch.ones((), device=device)
        # Memory that the device reads without the host's help. A graph keeps it, and copies from it at every replay.
        self._staging: Tensor | None = self._new_staging()
        self._captured: list[Tensor] = []

    def fits(self, shapes: list[Shape], settings: Settings) -> bool:
        """Whether it was made for these tensors."""
        return self._shapes == shapes and self._settings == settings

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that it holds."""
        held = [self._whole, *(work for _, work in self._small), self._large, self._blocks, self._states, self._bins]
        held += [self._pools, self._lists, self._pending, self._tensors, self._numbers, self._hash_keys]
        return sum(tensor.nbytes for tensor in held)

    def run(self, rows: bytes, found_inf: Tensor | None, grad_scale: Tensor | None) -> None:
        """One step of the tensors whose rows these are."""
        with _current(self._kind.device):
            self._upload(rows)
            device = self._kind.device
            self._launch(
                self._zero if found_inf is None else found_inf.to(device, non_blocking=True),
                self._one if grad_scale is None else grad_scale.to(device, non_blocking=True),
            )

    def _upload(self, rows: bytes) -> None:
        if rows == self._rows:
            return
        self._rows = rows
        staging = self._new_staging() if self._staging is None else self._staging
        staging.copy_(torch.frombuffer(bytearray(rows), dtype=torch.int64).view_as(staging))
        self._tensors.copy_(staging, non_blocking=True)
        if _is_capturing(self._kind.device):  # when no memory may be taken
            self._captured.append(staging)
            self._staging = None
        else:  # torch gives the memory to others only when the copy is done
            self._staging = self._new_staging()

    def _new_staging(self) -> Tensor:
        return torch.empty(self._tensors.shape, dtype=torch.int64, pin_memory=self._kind.device.type != "cpu")

    def _launch(self, found_inf: Tensor, grad_scale: Tensor) -> None:
        """The phases of a step. A phase is one launch for all tensors."""
        settings, kind = self._settings, self._kind
        tensors, numbers, hash_keys = self._tensors, self._numbers, self._hash_keys
        blocks, states, bins, pools, pending = self._blocks, self._states, self._bins, self._pools, self._pending
        of_grad: dict[str, Any] = {"G": DTYPES[kind.grad], "enable_fp_fusion": False}
        of_param = {**of_grad, "P": DTYPES[kind.param], "STOCHASTIC": kind.stochastic}
        score, aligned = {"SCORE": SCORES[kind.score]}, {"ALIGNED": kind.aligned}
        chunk, bin_count = {"CHUNK": settings.chunk}, {"BINS": settings.bins}

        kernels.prepare[(len(tensors),)](tensors, numbers, hash_keys, pending, found_inf, grad_scale, num_warps=1)
        if len(self._whole):
            kernels.update_everything[(len(self._whole),)](
                tensors, numbers, hash_keys, self._whole, **of_param, **aligned, **chunk, num_warps=WARPS
            )
        for width, work in self._small:
            kernels.update_small_block[(len(work),)](
                tensors, numbers, hash_keys, work, **of_param, **score, **aligned, WIDTH=width, num_warps=_warps(width)
            )
        if not len(blocks):
            return
        each_block, each_chunk, some_chunks = (len(blocks),), (len(self._large),), (self._programs,)
        stride = (len(self._large), self._programs)
        sample = {"PAIRS": settings.sample_pairs, "LINE": LINE, "SPREAD": settings.spread}
        kernels.guess_bracket[each_block](
            tensors, numbers, hash_keys, blocks, states, bins, **of_grad, **score, **sample, **bin_count,
            num_warps=_warps(2 * LINE * settings.sample_pairs),
        )  # fmt: skip
        kernels.update_moments_and_count[each_chunk](
            tensors, numbers, hash_keys, blocks, states, bins, self._large, **of_grad, **score, **aligned, **chunk,
            **bin_count, num_warps=WARPS,
        )  # fmt: skip
        for round_ in range(self._rounds):
            if round_:
                kernels.count_in_bins[some_chunks](
                    tensors, numbers, hash_keys, blocks, states, bins, pending, self._large, *stride,
                    **of_grad, **score, **aligned, **chunk, **bin_count, ROUND=round_, num_warps=WARPS,
                )  # fmt: skip
            kernels.narrow_bracket[each_block](
                tensors, numbers, blocks, states, bins, pending, **bin_count, ROUND=round_
            )
        kernels.move_above[some_chunks](
            tensors, numbers, hash_keys, blocks, states, pools, self._lists, self._large, *stride,
            **of_param, **score, **aligned, **chunk, TILE=settings.tile, num_warps=WARPS,
        )  # fmt: skip
        kernels.move_from_pool[each_block](
            tensors, numbers, hash_keys, blocks, states, pools, **of_param, **score, WIDTH=settings.pool,
            num_warps=_warps(settings.pool),
        )  # fmt: skip


def serves(*operands: Tensor) -> bool:
    """Whether the kernels can update a parameter, alone or with its gradient and moments."""
    first = operands[0]
    if first.numel() > MAX_ENTRIES:
        return False
    for position, operand in enumerate(operands):
        if operand.device != first.device or operand.dtype not in DTYPES or operand.layout is not torch.strided:
            return False
        if position >= 2 and operand.dtype is not torch.float32:
            return False
        if operand.shape != first.shape or operand.is_neg() or not holds_its_data(operand):
            return False
        if not operand.is_contiguous():
            return False
    return True


def _work(parts: list[tuple[int, int]], size: int, device: torch.device) -> Tensor:
    """Which program does what: (programs, 2) int32, for each (i, n) the rows (i, 0) … (i, ⌈n / size⌉ − 1)."""
    counts = torch.tensor([math.ceil(n / size) for _, n in parts], dtype=torch.int64)
    owners = torch.tensor([i for i, _ in parts], dtype=torch.int32).repeat_interleave(counts)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    numbers = (torch.arange(len(owners)) - starts).to(torch.int32)
    return torch.stack([owners, numbers], dim=1).contiguous().to(device)


def _warps(width: int) -> int:
    """So that a thread has 32 entries at most, as far as a program may have so many threads."""
    return min(max(width // 1024, 4), 32)


def _programs(device: torch.device) -> int:
    """As many as run at the same time: each takes many chunks, and none waits for a second turn."""
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 512


def _current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Launches go to the current device."""
    if device.type == "cpu":  # Triton's interpreter
        return contextlib.nullcontext()
    current: contextlib.AbstractContextManager[Any] = getattr(torch, device.type).device(device)
    return current


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _check_capture(kind: Kind, reason: str) -> None:
    if _is_capturing(kind.device):
        raise RuntimeError(f"this step cannot be captured in a CUDA graph, because {reason}")


def _check_overlap(tensors: list[tuple[Tensor, ...]]) -> None:
    """Programs run in any order: what one writes no other may use."""
    extents = []
    for operands in tensors:
        for position, operand in enumerate(operands[:4]):
            start = operand.data_ptr()
            extents.append((start, start + operand.nbytes, position != 1))
    used = written = 0
    for start, end, is_written in sorted(extents):
        if start < (used if is_written else written):
            raise RuntimeError(
                "parameters, gradients or moments overlap in memory: clone() them before giving them to the optimizer, "
                "or choose foreach=True, which updates one tensor after the other"
            )
        used = max(used, end)
        written = max(written, end) if is_written else written

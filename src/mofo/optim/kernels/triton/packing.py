"""What the host writes for the kernels: a row for each tensor of a step, and which program does what."""

from __future__ import annotations

import contextlib
import math
import struct
from typing import TYPE_CHECKING, NamedTuple

import torch

from mofo.optim.kernels.triton import tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from mofo.optim.rule.types import Operands, Rule

ROW = struct.Struct("=13q6d")  # of the table of tensors, see tables.py
HOST = torch.device("cpu")
ALIGNMENT = 16  # bytes that a thread reads at once, and entries whose bytes are a multiple of that in every type


class Block(NamedTuple):
    """What a row says of the blocks of a tensor."""

    n: int  # entries,
    k: int  # and how many of them move
    aligned: bool  # to what a thread reads at once


def pack_row(operands: Operands, rule: Rule, block: Block, rate: Tensor | None) -> bytes:
    """Pack a row of the table of tensors.

    Args:
        operands: of a tensor. The row has their addresses, so they must be kept until the kernels have run. A step on
            the device is read there.
        rule: of its update.
        block: of its blocks.
        rate: what `rate_on_device` returned; to be kept too.
    """
    step = operands.step
    on_host = counts_on_host(step)
    return ROW.pack(
        *(tensor.data_ptr() for tensor in operands[:4]),
        0 if on_host else step.data_ptr(),
        0 if rate is None else rate.data_ptr(),
        block.n,
        (block.n - 1).bit_length(),
        block.k,
        operands.seed,
        rule.maximize,
        rule.decay == "all",
        block.aligned,
        float(step) if on_host else 0.0,
        float(rule.lr) if rate is None else 0.0,
        *rule.betas,
        rule.eps,
        rule.weight_decay,
    )


def counts_on_host(step: Tensor) -> bool:
    """Check that the host counts the steps of a tensor; else its kernels do."""
    return step.device == HOST


def rate_on_device(lr: float | Tensor, device: torch.device) -> Tensor | None:
    """Return a learning rate that is on a device as a float32 scalar there; None if the host knows it."""
    if not isinstance(lr, torch.Tensor) or lr.device == HOST:
        return None
    return lr.to(device=device, dtype=torch.float32)


def is_aligned(tensors: Sequence[Tensor], n: int) -> bool:
    """Check that vectors can be read of the tensors, and of each of their blocks of n entries."""
    return n % ALIGNMENT == 0 and not any(tensor.data_ptr() % ALIGNMENT for tensor in tensors)


class Tables:
    """A row for each tensor of a step, in tables on the device that all kernels read."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.device = device
        self.tensors = torch.empty((count, tables.COLUMNS.value), dtype=torch.int64, device=device)
        self.numbers = torch.empty((count, tables.NUMBERS.value), dtype=torch.float32, device=device)
        self.hash_keys = torch.empty((count, 2), dtype=torch.int64, device=device)
        self.pending = torch.zeros(tables.MAX_ROUNDS.value, dtype=torch.int32, device=device)
        self._rows = b""
        # Memory that the device reads without the host's help. A graph keeps it, and copies from it at every replay.
        self._staging: Tensor | None = self._new_staging()
        self._captured: list[Tensor] = []

    @property
    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """The tables with a row for each tensor, as every kernel takes them first."""
        return self.tensors, self.numbers, self.hash_keys

    def upload(self, rows: bytes) -> None:
        """Copy the rows of the table `tensors` to the device, unless it has them."""
        if rows == self._rows:
            return
        self._rows = rows
        staging = self._new_staging() if self._staging is None else self._staging
        staging.copy_(torch.frombuffer(bytearray(rows), dtype=torch.int64).view_as(staging))
        self.tensors.copy_(staging, non_blocking=True)
        if is_capturing(self.device):  # when no memory may be taken
            self._captured.append(staging)
            self._staging = None
        else:  # torch gives the memory to others only when the copy is done
            self._staging = self._new_staging()

    def _new_staging(self) -> Tensor:
        return torch.empty(self.tensors.shape, dtype=torch.int64, pin_memory=self.device.type != "cpu")


def list_work(parts: list[tuple[int, int]], size: int, device: torch.device) -> Tensor:
    """Return which program does what: (programs, 2) int32, for each (i, n) the rows (i, 0) … (i, ⌈n / size⌉ − 1)."""
    counts = torch.tensor([math.ceil(n / size) for _, n in parts], dtype=torch.int64)
    owners = torch.tensor([i for i, _ in parts], dtype=torch.int32).repeat_interleave(counts)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    numbers = (torch.arange(len(owners)) - starts).to(torch.int32)
    return torch.stack([owners, numbers], dim=1).contiguous().to(device)


def warps_for(width: int) -> int:
    """Return how many warps keep at most 32 of `width` entries per thread, capped at 32."""
    return min(max(width // 1024, 4), 32)


def programs_at_once(device: torch.device) -> int:
    """Return how many programs run at the same time: each takes many chunks, and none waits for a second turn."""
    return 4 * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 512


def current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make a device the current one, to which launches go."""
    if device.type == "cpu":  # Triton's interpreter
        return contextlib.nullcontext()
    current: contextlib.AbstractContextManager[object] = getattr(torch, device.type).device(device)
    return current


def is_capturing(device: torch.device) -> bool:
    """Check whether launches on a device are being recorded in a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def check_overlap(added: list[tuple[Tensor, ...]]) -> None:
    """Check that no memory that is written is used twice, because programs run in any order."""
    extents = []
    for tensors in added:
        for position, tensor in enumerate(tensors[:4]):
            start = tensor.data_ptr()
            extents.append((start, start + tensor.nbytes, position != 1))
    used = written = 0
    for start, end, is_written in sorted(extents):
        if start < (used if is_written else written):
            raise RuntimeError(
                "parameters, gradients or moments overlap in memory: clone() them before giving them to the optimizer, "
                "or choose foreach=True, which updates one tensor after the other"
            )
        used = max(used, end)
        written = max(written, end) if is_written else written

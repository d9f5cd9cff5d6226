"""The fast back end for CPU tensors: a library in C++, which takes all tensors of a step in one call.

The library has a plain C interface and is called through ``ctypes``: it knows neither Python's nor torch's own C++
interfaces, so that one build serves every version of both.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import sys
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from mofo.optim.kernels import cpu
from mofo.optim.rule.blocks import block_size, selected_count
from mofo.optim.rule.rounding import is_random, rounding_key
from mofo.optim.rule.scores import Score, noise_key

if TYPE_CHECKING:
    from torch import Tensor

    from mofo.optim.rule.rounding import Rounding
    from mofo.optim.rule.update import Decay

LIBRARY = {"win32": "mofo_cpu.dll", "darwin": "libmofo_cpu.dylib"}.get(sys.platform, "libmofo_cpu.so")
INSTRUCTION_SETS = ("avx512", "avx2", "baseline")  # the best first; NEON is the baseline of its processors

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # enum Dtype of kernel.h
SCORES = {score: number for number, score in enumerate(get_args(Score))}  # enum Score
MAX_DIMS = 64
PLAIN = (torch.Tensor, torch.nn.Parameter)

TENSOR = struct.Struct("=16Q7d")  # struct Tensor of kernel.h
SETTINGS = struct.Struct("=8Q1d")  # struct Settings of step.h


@dataclass(frozen=True)
class Settings:
    """How a step is computed. None of it changes a result; the defaults are the fastest, the tests try others."""

    threads: int | None = None  # None: as many as torch
    instruction_set: str | None = None  # None: the best there is
    own_threads: bool = False  # not those of torch's OpenMP
    small: int = 1 << 12  # blocks of at most so many entries are not sampled
    sample_rate: int = 32  # one cache line in so many is sampled,
    max_lines: int = 1 << 13  # but no more than these
    band_share: int = 16  # one entry in so many fits into the memory for those inside the bracket
    journal_share: int = 12  # of the bytes of the largest block, one in so many is memory for journals
    spread: float = 2.0  # half-width of the bracket around the sampled threshold, in standard deviations


class Library:
    """The loaded library.

    Raises:
        OSError: it is not there, or is built from other sources than this file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.mofo_cpu_kernel.restype = ctypes.c_void_p
        self._library.mofo_cpu_sizes.restype = ctypes.c_int64
        if self._library.mofo_cpu_sizes() != TENSOR.size << 32 | SETTINGS.size:
            raise OSError(f"{path} was built from other sources than {__file__}: install mofo again")
        found = {name: self._library.mofo_cpu_kernel(name.encode()) for name in INSTRUCTION_SETS}
        self.kernels: dict[str, int] = {name: kernel for name, kernel in found.items() if kernel}
        self.openmp = _find_openmp()

    @property
    def instruction_set(self) -> str:
        """The best one that this processor has."""
        return next(iter(self.kernels))

    def __str__(self) -> str:
        return f"native ({self.instruction_set}, on {'torch' if self.openmp else 'its own'}'s threads)"

    def step(self, tensors: list[bytes], settings: Settings) -> None:
        """One step of the tensors that ``NativeStep`` has packed.

        Raises:
            RuntimeError: tensors may overlap in memory; nothing was written.
            MemoryError: there is no scratch memory; nothing was written.
        """
        error = self._library.mofo_cpu_step(b"".join(tensors), ctypes.c_int64(len(tensors)), self._pack(settings))
        if error == 1:
            raise RuntimeError(
                "parameters, gradients or moments overlap in memory, or lie in between each other: clone() them before "
                "giving them to the optimizer, or choose foreach=True, which updates one tensor after the other"
            )
        if error:
            raise MemoryError("no scratch memory for the step; nothing was changed")

    def update_moments(
        self, tensor: bytes, settings: Settings, low: Tensor, high: Tensor, counts: Tensor, band: Tensor
    ) -> None:
        """The first phase of a step for a tensor that is sharded: the moments of all entries.

        Args:
            tensor: of :func:`pack`.
            settings: how it is computed.
            low: (blocks,), int64, as high: from which key to which the keys of a block are collected.
            high: (blocks,).
            counts: (blocks, 2), int64, set to the number of keys above, and of those from low to high.
            band: (blocks, capacity), int32, set to the latter as far as they fit.
        """
        arrays = map(_address, (low, high, counts, band))
        self._library.mofo_cpu_moments(tensor, self._pack(settings), *arrays, ctypes.c_int64(band.shape[1]))

    def count_keys(
        self, tensor: bytes, settings: Settings, low: Tensor, high: Tensor, shift: Tensor, counts: Tensor
    ) -> None:
        """The second: count the keys, as `count_bins` in distributed/shard.py does; all arguments contiguous int64.

        Raises:
            MemoryError: there is no scratch memory.
        """
        bins = ctypes.c_int64(counts.shape[1] - 1)
        arrays = map(_address, (low, high, shift, counts))
        if self._library.mofo_cpu_count(tensor, self._pack(settings), *arrays, bins):
            raise MemoryError("no scratch memory for the step")

    def count_collected(
        self, collected: Tensor, band: Tensor, low: Tensor, high: Tensor, shift: Tensor, counts: Tensor
    ) -> None:
        """The same of the keys that :meth:`update_moments` has collected, all of which must fit into the band."""
        blocks, capacity, bins = (ctypes.c_int64(x) for x in (*band.shape, counts.shape[1] - 1))
        limits = map(_address, (low, high, shift, counts))
        self._library.mofo_cpu_count_collected(blocks, _address(collected), _address(band), capacity, *limits, bins)

    def move(self, tensor: bytes, settings: Settings, keys: Tensor, ties: Tensor) -> None:
        """The last: update the entries with a higher key than ``keys`` (blocks,), and the first ``ties`` equal ones.

        Both are contiguous int64.

        Raises:
            MemoryError: there is no scratch memory.
        """
        if self._library.mofo_cpu_move(tensor, self._pack(settings), _address(keys), _address(ties)):
            raise MemoryError("no scratch memory for the step")

    def _pack(self, settings: Settings) -> bytes:
        return SETTINGS.pack(
            settings.threads or torch.get_num_threads(),
            0 if settings.own_threads else self.openmp,
            self.kernels[settings.instruction_set or self.instruction_set],
            settings.small,
            settings.sample_rate,
            settings.max_lines,
            settings.band_share,
            settings.journal_share,
            settings.spread,
        )


def pack(
    param: Tensor,  # float32, bfloat16 or float16, any strides
    grad: Tensor,  # of these types, shape of param
    exp_avg: Tensor,  # shape of param, float32
    exp_avg_sq: Tensor,  # as exp_avg
    t: int,  # number of this step, from 1
    seed: int,
    layout: int = 0,  # address of sizes and strides of tensors that are not contiguous
    *,
    lr: float | Tensor,
    fraction: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    blocks: int,
    score: Score,
    decay: Decay,
    maximize: bool,
    rounding: Rounding,
) -> bytes:
    """A tensor of a step as the library reads it, from the arguments of :func:`mofo.optim.rule.update.update`."""
    beta1, beta2 = betas
    n = block_size(param, blocks)
    return TENSOR.pack(
        param.data_ptr(),
        grad.data_ptr(),
        exp_avg.data_ptr(),
        exp_avg_sq.data_ptr(),
        layout,
        DTYPES[param.dtype],
        DTYPES[grad.dtype],
        blocks,
        n,
        selected_count(fraction, n),
        SCORES[score],
        noise_key(seed, t) if score == "random" else 0,
        is_random(rounding, param),
        rounding_key(seed, t) if is_random(rounding, param) else 0,
        maximize,
        decay == "all",
        1 - beta1,
        beta2,
        1 - beta2,
        (1 - beta2**t) ** 0.5,
        eps,
        float(1 - lr * weight_decay),
        float(lr / (1 - beta1**t)),
    )


class NativeStep:
    """The tensors of one step, of all groups."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._tensors: list[bytes] = []
        self._operands: list[tuple[Tensor, ...]] = []  # kept until the call, which has their addresses alone
        self._layouts: list[array[int]] = []  # likewise
        self._steps: list[Tensor] = []

    def add(
        self,
        param: Tensor,
        grad: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        step: Tensor,
        seed: int,
        **method: Any,
    ) -> None:
        """Take the arguments of :func:`mofo.optim.rule.update.update`, for tensors that :func:`serves`."""
        operands = (param, grad, exp_avg, exp_avg_sq)
        contiguous = (
            param.is_contiguous() and grad.is_contiguous() and exp_avg.is_contiguous() and exp_avg_sq.is_contiguous()
        )
        self._operands.append(operands)
        self._steps.append(step)
        self._tensors.append(
            pack(*operands, int(step) + 1, seed, 0 if contiguous else self._layout(operands), **method)
        )

    def run(self) -> None:
        """Update the tensors that were added.

        Raises:
            RuntimeError, MemoryError: as :meth:`Library.step`; nothing was written then.
        """
        if not self._tensors:
            return
        library = load()
        assert isinstance(library, Library)
        library.step(self._tensors, self._settings)
        torch._foreach_add_(self._steps, 1)

    def _layout(self, operands: tuple[Tensor, ...]) -> int:
        shape = operands[0].shape
        strides = [stride for operand in operands for stride in operand.stride()]
        self._layouts.append(array("q", [len(shape), *shape, *strides]))
        return self._layouts[-1].buffer_info()[0]


def serves(*operands: Tensor) -> bool:
    """Whether the library can update a parameter, alone or with its gradient and moments."""
    shape = operands[0].shape
    for position, operand in enumerate(operands):
        if not operand.is_cpu or operand.dtype not in DTYPES or operand.layout is not torch.strided:
            return False
        if position >= 2 and operand.dtype is not torch.float32:
            return False
        if operand.shape != shape or operand.is_neg() or not holds_its_data(operand):
            return False
        if not operand.is_contiguous() and (len(shape) > MAX_DIMS or (position != 1 and _may_overlap_itself(operand))):
            return False
    return True


@functools.cache
def load() -> Library | str:
    """The library; or why there is none. ``MOFO_CPU_LIBRARY`` is the path of another build of it."""
    # In an editable install the package has two folders: one with the sources, one with what was built.
    candidates = [Path(folder, LIBRARY) for folder in cpu.__path__]
    if "MOFO_CPU_LIBRARY" in os.environ:
        candidates = [Path(os.environ["MOFO_CPU_LIBRARY"])]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        return f"there is no {candidates[-1].name}: mofo was installed where its C++ could not be compiled"
    try:
        return Library(found)
    except OSError as error:
        return str(error)


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _find_openmp() -> int:
    """Address of the entry point of the OpenMP runtime that torch has loaded, or 0."""
    candidates: list[str | None] = [None] if os.name == "posix" else []
    candidates += map(str, Path(torch.__file__).parent.glob("lib/libomp.dylib"))
    for path in candidates:
        try:
            entry = ctypes.CDLL(path).GOMP_parallel
        except (AttributeError, OSError):
            continue
        return ctypes.cast(entry, ctypes.c_void_p).value or 0
    return 0


def holds_its_data(tensor: Tensor) -> bool:
    """Whether its entries are in its memory, and not those of tensors that a subclass wraps."""
    kind = type(tensor)
    return kind in PLAIN or kind.__torch_dispatch__ is torch.Tensor.__torch_dispatch__


def _may_overlap_itself(tensor: Tensor) -> bool:
    """Whether two entries may lie in one place; never of a tensor that is a permuted or sliced contiguous one."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += stride * (size - 1)
    return False

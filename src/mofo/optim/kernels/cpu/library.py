"""The native library for CPU tensors: found, loaded and called through `ctypes`.

It has a plain C interface (`step.h`) and knows neither Python's nor torch's own C++ interfaces, so that one build
serves every version of both.
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
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mofo.optim.kernels import cpu
from mofo.optim.kernels.cpu.dlpack import find_describer
from mofo.optim.kernels.cpu.phases import Phases, address_of
from mofo.optim.kernels.memory import holds_its_data, may_overlap_itself
from mofo.optim.rule.blocks import block_size, selected_count
from mofo.optim.rule.rounding import rounding_key, rounds_at_random
from mofo.optim.rule.scores import SCORES, noise_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mofo.optim.rule.types import Operands, Rule

LIBRARY = {"win32": "mofo_cpu.dll", "darwin": "libmofo_cpu.dylib"}.get(sys.platform, "libmofo_cpu.so")
INSTRUCTION_SETS = ("avx512", "avx2", "baseline")  # the best first; NEON is the baseline of its processors

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # enum Dtype of kernel.h
MOMENT_DTYPES = (torch.float32,)
STRIDED = torch.strided
SCORE_NUMBERS = {score: number for number, score in enumerate(SCORES)}  # enum Score of kernel.h
MAX_DIMS = 64
DESCRIBED_DEVICES = ("cpu", "cuda", "xpu")
LIST_ITEM = ctypes.cast(ctypes.pythonapi.PyList_GetItem, ctypes.c_void_p).value

# struct Tensor of kernel.h, in three parts: where its memory is, how it lies there, and the numbers of a step
ADDRESSES, LAYOUT, NUMBERS = struct.Struct("=4Q"), struct.Struct("=6Q"), struct.Struct("=7Q7d")
TENSOR_SIZE = ADDRESSES.size + LAYOUT.size + NUMBERS.size
CONFIG = struct.Struct("=8Q1d")  # struct Config of step.h


@dataclass(frozen=True)
class NativeConfig:
    """How the library makes a step. Nothing here changes a result; the defaults are the fastest, tests try others."""

    threads: int | None = None  # None: torch's number
    instruction_set: str | None = None  # None: the best that the processor has
    own_threads: bool = False  # instead of those of torch's OpenMP
    small: int = 1 << 15  # blocks of at most this many entries are not sampled
    sample_rate: int = 32  # of a larger block one cache line in every `sample_rate` is sampled
    max_lines: int = 1 << 13  # at most this many lines of a block are sampled
    band_share: int = 16  # the keys inside the bracket have memory for a block's entries divided by `band_share`
    journal_share: int = 4  # journals have the bytes of the largest block, or of 2^20 entries, divided by this
    spread: float = 2.0  # half-width of the bracket around the sampled threshold, in standard deviations


class Library:
    """The loaded library.

    Raises:
        OSError: the file is missing, or was built from other sources than this one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._with_lock = ctypes.PyDLL(str(path))  # keeps Python's lock, for what reads Python's objects
        self._with_lock.mofo_cpu_describe.restype = ctypes.c_int64
        self._library.mofo_cpu_kernel.restype = ctypes.c_void_p
        self._library.mofo_cpu_sizes.restype = ctypes.c_int64
        if self._library.mofo_cpu_sizes() != TENSOR_SIZE << 32 | CONFIG.size:
            raise OSError(f"{path} was built from other sources than {__file__}: install mofo again")
        found = {name: self._library.mofo_cpu_kernel(name.encode()) for name in INSTRUCTION_SETS}
        self.kernels: dict[str, int] = {name: kernel for name, kernel in found.items() if kernel}
        self.openmp = _find_openmp()
        self._describer = find_describer()

    @property
    def instruction_set(self) -> str:
        """The best instruction set that this processor has."""
        return next(iter(self.kernels))

    def __str__(self) -> str:
        return f"native ({self.instruction_set}, on {'torch' if self.openmp else 'its own'}'s threads)"

    def can_describe(self, device: torch.device) -> bool:
        """Check whether `describe` knows the plain tensors of a device."""
        return bool(self._describer) and device.type in DESCRIBED_DEVICES

    def describe(self, tensors: list[Tensor]) -> tuple[array[int], bytes]:
        """Return the address of each plain tensor, and all devices, types, shapes and strides for comparison.

        Raises:
            RuntimeError, BufferError: one of them does not lie in memory by strides, as sparse ones.
        """
        count = len(tensors)
        addresses, words = array("Q", bytes(8 * count)), array("q", bytes(8 * 10 * count))  # up to four dimensions
        while True:
            used = self._with_lock.mofo_cpu_describe(
                ctypes.c_void_p(LIST_ITEM),
                ctypes.c_void_p(self._describer),
                ctypes.py_object(tensors),
                ctypes.c_int64(count),
                _buffer(addresses),
                _buffer(words),
                ctypes.c_int64(len(words)),
            )
            if used <= len(words):
                return addresses, bytes(memoryview(words)[:used])
            words = array("q", bytes(8 * used))

    def read_steps(self, addresses: array[int]) -> array[float]:
        """Return the numbers of steps that tensors have made, from the addresses of their float32 counters."""
        made = array("d", bytes(8 * len(addresses)))
        self._library.mofo_cpu_read_steps(_buffer(addresses), ctypes.c_int64(len(addresses)), _buffer(made))
        return made

    def count_step(self, addresses: array[int]) -> None:
        """Add 1 to the float32 counters at these addresses."""
        self._library.mofo_cpu_count_step(_buffer(addresses), ctypes.c_int64(len(addresses)))

    def step(self, tensors: bytes, config: NativeConfig) -> None:
        """Make one step of tensors that `pack` or a `Table` has packed.

        Raises:
            RuntimeError: tensors may overlap in memory; nothing was written.
            MemoryError: there is no scratch memory; nothing was written.
        """
        count = ctypes.c_int64(len(tensors) // TENSOR_SIZE)
        error = self._library.mofo_cpu_step(tensors, count, self._pack(config))
        if error == 1:
            raise RuntimeError(
                "parameters, gradients or moments overlap in memory, or lie in between each other: clone() them before "
                "giving them to the optimizer, or choose foreach=True, which updates one tensor after the other"
            )
        if error:
            raise MemoryError("no scratch memory for the step; nothing was changed")

    def phases(self) -> Phases:
        """Return the phases of a step of shards, with memory of their own."""
        return Phases(self._library, self._pack)

    def dequantise(self, codebook: array[int], codes: Tensor, values: Tensor, config: NativeConfig) -> None:
        """Write the values of a moment in 8 bits, which `kernels/cpu/int8.py` packs, into a float32 tensor."""
        self._convert(self._library.mofo_cpu_dequantise, codebook, codes, values, config)

    def quantise(self, codebook: array[int], codes: Tensor, values: Tensor, config: NativeConfig) -> None:
        """Set a moment in 8 bits to the values of a float32 tensor, rounded."""
        self._convert(self._library.mofo_cpu_quantise, codebook, codes, values, config)

    def _convert(
        self, function: Callable[..., int], codebook: array[int], codes: Tensor, values: Tensor, config: NativeConfig
    ) -> None:
        entries = ctypes.c_int64(codes.numel())
        function(_buffer(codebook), address_of(codes), entries, address_of(values), self._pack(config))

    def _pack(self, config: NativeConfig) -> bytes:
        return CONFIG.pack(
            config.threads or torch.get_num_threads(),
            0 if config.own_threads else self.openmp,
            self.kernels[config.instruction_set or self.instruction_set],
            config.small,
            config.sample_rate,
            config.max_lines,
            config.band_share,
            config.journal_share,
            config.spread,
        )


class MemoryLayout(NamedTuple):
    """How a tensor lies in memory: what is packed of it that follows from types, shapes, strides and its blocks."""

    packed: bytes
    n: int  # entries of a block
    rounds_at_random: bool
    strides: array[int] | None  # sizes and strides, as kernel.h has them, if a tensor is not contiguous
    codebooks: array[int] | None  # of the moments, if they are codes in 8 bits (`kernels/cpu/int8.py`)

    @classmethod
    def of(cls, operands: Operands, rule: Rule, codebooks: array[int] | None = None) -> MemoryLayout:
        """Return the layout of a tensor that the library can update."""
        tensors = operands[:4]
        param, grad, *_ = tensors
        strides = None
        if not all(tensor.is_contiguous() for tensor in tensors):
            of_each = [stride for tensor in tensors for stride in tensor.stride()]
            strides = array("q", [param.dim(), *param.shape, *of_each])
        addresses = [0 if tables is None else tables.buffer_info()[0] for tables in (strides, codebooks)]
        n = block_size(param, rule.blocks)
        packed = LAYOUT.pack(*addresses, DTYPES[param.dtype], DTYPES[grad.dtype], rule.blocks, n)
        return cls(packed, n, rounds_at_random(rule.rounding, param), strides, codebooks)


def pack(tensors: Sequence[Operands], rule: Rule, layouts: Sequence[MemoryLayout]) -> list[bytes]:
    """Pack the update of tensors by a rule as the library reads it.

    The library is given addresses: the tensors and their layouts must be kept until it is called.
    """
    params, grads, exp_avgs, exp_avg_sqs, steps, seeds = zip(*tensors, strict=True)
    addresses = map(ADDRESSES.pack, *(map(Tensor.data_ptr, each) for each in (params, grads, exp_avgs, exp_avg_sqs)))
    in_common: dict[tuple[int, int], bytes] = {}  # numbers, by the step and the size of a block
    packed = []
    for address, layout, step, seed in zip(addresses, layouts, map(Tensor.item, steps), seeds, strict=True):
        key = int(step) + 1, layout.n
        if layout.rounds_at_random or rule.score == "random":  # from a seed of its own
            numbers = pack_numbers(rule, layout, key[0], seed)
        elif key in in_common:
            numbers = in_common[key]
        else:
            numbers = in_common[key] = pack_numbers(rule, layout, key[0], seed)
        packed.append(address + layout.packed + numbers)
    return packed


def pack_numbers(rule: Rule, layout: MemoryLayout, t: int, seed: int) -> bytes:
    """Pack the numbers of step `t` of a tensor, the last part of its row."""
    beta1, beta2 = rule.betas
    return NUMBERS.pack(
        selected_count(rule.fraction, layout.n),
        SCORE_NUMBERS[rule.score],
        noise_key(seed, t) if rule.score == "random" else 0,
        layout.rounds_at_random,
        rounding_key(seed, t) if layout.rounds_at_random else 0,
        rule.maximize,
        rule.decay == "all",
        1 - beta1,
        beta2,
        1 - beta2,
        (1 - beta2**t) ** 0.5,
        rule.eps,
        float(1 - rule.lr * rule.weight_decay),
        float(rule.lr / (1 - beta1**t)),
    )


def can_update(*tensors: Tensor) -> bool:
    """Check whether the library can update a parameter, given alone or with its gradient and moments."""
    shape = tensors[0].shape
    for position, tensor in enumerate(tensors):
        if not tensor.is_cpu or tensor.dtype not in (DTYPES if position < 2 else MOMENT_DTYPES):
            return False
        if tensor.layout is not STRIDED or tensor.shape != shape or tensor.is_neg() or not holds_its_data(tensor):
            return False
        if not tensor.is_contiguous() and (len(shape) > MAX_DIMS or (position != 1 and may_overlap_itself(tensor))):
            return False
    return True


@functools.cache
def load() -> Library | str:
    """Return the loaded library, or the reason it is unavailable.

    `MOFO_CPU_LIBRARY` in the environment is the path of another build of it.
    """
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


def loaded() -> Library:
    """Return the library, which is known to be available."""
    library = load()
    assert isinstance(library, Library)
    return library


def _buffer(numbers: array[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(numbers.buffer_info()[0])


def _find_openmp() -> int:
    """Return the address of the entry point of the OpenMP runtime that torch has loaded, or 0."""
    candidates: list[str | None] = [None] if os.name == "posix" else []
    candidates += map(str, Path(torch.__file__).parent.glob("lib/libomp.dylib"))
    for path in candidates:
        try:
            entry = ctypes.CDLL(path).GOMP_parallel
        except (AttributeError, OSError):
            continue
        return ctypes.cast(entry, ctypes.c_void_p).value or 0
    return 0

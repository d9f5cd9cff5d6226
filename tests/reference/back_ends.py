"""The back ends that must have the same results: as classes, and as options of MoFO."""

import os

import pytest

from mofo.optim.kernels.cpu import library
from mofo.optim.kernels.cpu.step import NativeStep
from mofo.optim.kernels.plain.foreach import ForeachStep
from mofo.optim.kernels.plain.reference import ReferenceStep

# MOFO_REQUIRE_NATIVE=1, as with make where there is a compiler: without the library they fail
needs_native = pytest.mark.skipif(
    isinstance(library.load(), str) and os.environ.get("MOFO_REQUIRE_NATIVE") != "1",
    reason=f"no native library: {library.load()}",
)

KERNELS = [
    pytest.param(ReferenceStep, id="reference"),
    pytest.param(ForeachStep, id="foreach"),
    pytest.param(NativeStep, id="native", marks=needs_native),
]
BACK_ENDS = [
    pytest.param({"foreach": False}, id="plain"),
    pytest.param({"foreach": True}, id="foreach"),
    pytest.param({"fused": True}, id="native", marks=needs_native),
]

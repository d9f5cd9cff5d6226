"""The back ends that must have the same results, as options of MoFO."""

import os

import pytest

from mofo.optim.kernels.cpu import library

# MOFO_REQUIRE_NATIVE=1, as with make where there is a compiler: without the library they fail
needs_native = pytest.mark.skipif(
    isinstance(library.load(), str) and os.environ.get("MOFO_REQUIRE_NATIVE") != "1",
    reason=f"no native library: {library.load()}",
)

BACK_ENDS = [
    pytest.param({"foreach": False}, id="plain"),
    pytest.param({"foreach": True}, id="foreach"),
    pytest.param({"fused": True}, id="native", marks=needs_native),
]

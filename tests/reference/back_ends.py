"""The back ends that must have the same results, as options of MoFO."""

import pytest

from mofo.optim.kernels import native

needs_native = pytest.mark.skipif(isinstance(native.load(), str), reason=f"no native library: {native.load()}")

BACK_ENDS = [
    pytest.param({"foreach": False}, id="plain"),
    pytest.param({"foreach": True}, id="foreach"),
    pytest.param({"fused": True}, id="native", marks=needs_native),
]

import os
import subprocess
import sys

import pytest

NOISY = """
import logging, warnings
from mofo.models.quiet import quiet
quiet()
logging.basicConfig()
for name in ("torchao", "torchao.float8.inference", "a_library.of_tomorrow"):
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)  # as libraries do when they are imported
    logger.warning("noise of a logger")
    logger.error("an error")
warnings.warn("noise of a library", FutureWarning)
warnings.warn("noise of a library", UserWarning)
warnings.warn("MoFO's steps are slow", UserWarning)
"""


@pytest.mark.parametrize("verbose", ["", "1"])
def test_quiet_leaves_errors_and_our_own_warnings(verbose):
    environment = os.environ | {"MOFO_VERBOSE": verbose}
    done = subprocess.run([sys.executable, "-c", NOISY], env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.count("an error") == 3
    assert "MoFO's steps are slow" in done.stderr
    assert ("noise of a logger" in done.stderr) is bool(verbose)
    assert done.stderr.count("noise of a library") == (2 if verbose else 0)

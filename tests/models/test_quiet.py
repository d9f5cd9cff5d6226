import os
import subprocess
import sys

import pytest

NOISY = """
import logging, warnings
from mofo.models.quiet import quiet
quiet()
logging.basicConfig()
logging.getLogger("torchao").warning("noise of a logger")
logging.getLogger("torchao").error("an error")
warnings.warn("noise of a library", FutureWarning)
warnings.warn("a warning of ours", UserWarning)
"""


@pytest.mark.parametrize("verbose", ["", "1"])
def test_quiet_leaves_errors_and_our_own_warnings(verbose):
    environment = os.environ | {"MOFO_VERBOSE": verbose}
    done = subprocess.run([sys.executable, "-c", NOISY], env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert "an error" in done.stderr
    assert "a warning of ours" in done.stderr
    assert ("noise of a logger" in done.stderr) is bool(verbose)
    assert ("noise of a library" in done.stderr) is bool(verbose)

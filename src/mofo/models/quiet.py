"""What the libraries below say on the side, kept from the reader of a command's output."""

from __future__ import annotations

import logging
import os
import warnings

VERBOSE = "MOFO_VERBOSE"
"""Environment variable that lets the libraries speak; `--verbose` sets it for a command and its processes."""

CHATTY = (
    "torchao",
    "DeepSpeed",
    "torch.utils._pytree",
    "torch.distributed.elastic",
    "transformers",
    "peft",
    "datasets",
)
"""Loggers that say on import or on loading what no user of a command can act on."""

LIBRARIES = r"(torch|torchao|transformers|peft|trl|accelerate|deepspeed|datasets|huggingface_hub)(\..*)?$"


def quiet() -> None:
    """Silence warnings and progress bars of the libraries, but not their errors; call it before importing them."""
    if os.environ.get(VERBOSE):
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    for name in CHATTY:
        # A level would be overwritten by libraries that set one when they are imported.
        logging.getLogger(name).addFilter(_is_error)
    warnings.filterwarnings("ignore", module=LIBRARIES)
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category)


def hide_loading_bars() -> None:
    """Hide the progress bars that transformers draws for each model it loads or saves."""
    if not os.environ.get(VERBOSE):
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR

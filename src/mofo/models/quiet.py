"""What the libraries below say on the side, kept from the reader of a command's output."""

from __future__ import annotations

import logging
import os
import warnings

VERBOSE = "MOFO_VERBOSE"
"""Environment variable that lets the libraries speak; `--verbose` sets it for a command and its processes."""

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",  # else it warns when a process is forked
}
"""Environment variables by which libraries are silenced, here and in the processes that a command starts."""


def quiet(level: int = logging.WARNING) -> None:
    """Silence warnings of the libraries, but not their errors nor mofo's warnings; call it before importing them.

    Whatever a library says below an error is nothing that the user of a command can act on. Which libraries speak,
    and through which logger, changes with every version of them: so all are silenced, whatever their name.

    Args:
        level: Of what is logged, up to this level is silenced; that of errors is for programs that start others, which
            say themselves what went wrong.
    """
    if is_verbose():
        return
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.disable(level)
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", message="(?i)mofo")


def is_verbose() -> bool:
    """Return whether the libraries may speak."""
    return bool(os.environ.get(VERBOSE))


def hide_loading_bars() -> None:
    """Hide the progress bars that transformers draws for each model it loads or saves."""
    if not is_verbose():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()


def silence_datasets() -> None:
    """Hide the progress bars that datasets draws for each pass over rows, and the errors that it logs and raises."""
    if not is_verbose():
        import datasets

        datasets.disable_progress_bars()
        datasets.utils.logging.set_verbosity(logging.CRITICAL)

"""`mofo sft`: trl's supervised fine-tuning, with MoFO as the optimizer, under `accelerate launch`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from subprocess import CalledProcessError
from tempfile import TemporaryDirectory
from typing import NoReturn

import psutil
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from trl.cli.accelerate_config import resolve_accelerate_config_argument

from mofo.errors import UserError
from mofo.files import cache_folder
from mofo.models.load import check_weights, local_folder
from mofo.models.quiet import quiet
from mofo.trainers.checkpoints import last_checkpoint
from mofo.trainers.trl_arguments import Arguments, parse, unknown_flag
from mofo.trainers.trl_rows import learns_all_turns, row_counts
from mofo.trainers.trl_script import SAID

SECONDS_TO_END = 30
"""How long interrupted processes may take to end by themselves."""


ALL_TURNS = (
    "mofo sft: every token of the conversations is learned, the user's too, as trl does; --assistant_only_loss True "
    "learns what the assistant says, as mofo compare does"
)


def main(argv: list[str]) -> int:
    """Check the command line, then train under `accelerate launch`, as `trl sft` does.

    Args:
        argv: Everything after `mofo sft`: flags of `trl sft`, of MoFO and of `accelerate launch`.

    Returns:
        The exit code of the training.

    Raises:
        UserError: The command line, the YAML file, the model or the data cannot be used.
        KeyboardInterrupt: The training was interrupted; the message says how to resume it.
    """
    args = parse(argv)
    for dataset in args.mixture.datasets:
        file = Path(str(dataset.data_files))
        if file.parent == cache_folder() / "data":
            for reason, count in row_counts(file).items():
                print(f"mofo sft: {count} {reason}", file=sys.stderr)
            if learns_all_turns(file, args.training):
                print(ALL_TURNS, file=sys.stderr)
    folder = local_folder(str(args.model.model_name_or_path), args.model.model_revision)
    check_weights(str(folder), trust_remote_code=args.training.trust_remote_code)  # trl would draw missing weights
    began = time.time()
    quiet(logging.ERROR)  # the processes say themselves what goes wrong
    try:
        with TemporaryDirectory(prefix="mofo-") as scratch:
            os.environ[SAID] = str(Path(scratch) / "said")
            _launch(argv, args)
    except (ValueError, ImportError) as error:  # the launcher's own checks
        raise UserError(str(error)) from error
    except CalledProcessError as error:  # one process; it has said what went wrong
        return int(error.returncode)
    except ChildFailedError as error:  # one of several
        return error.get_first_failure()[1].exitcode
    except (KeyboardInterrupt, SignalException) as error:
        if isinstance(error, SignalException) and error.sigval != signal.SIGINT:
            raise
        _end_children()
        raise KeyboardInterrupt(how_to_resume(Path(str(args.training.output_dir)), since=began)) from None
    finally:
        os.environ.pop(SAID, None)
    return 0


def _launch(argv: list[str], args: Arguments) -> None:
    """Train in processes that accelerate starts, and wait for them."""
    flags = resolve_accelerate_config_argument([*args.unknown_in_config, *args.unknown_in_argv])
    script = ["-m", "mofo.trainers.trl_script", *without(argv, args.unknown_in_argv)]
    parser = launch_command_parser()
    parser.error = _refuse  # its own prints the usage, of a hundred lines
    launch, unknown = parser.parse_known_args([*flags, *script])
    if unknown:
        raise unknown_flag(unknown[0])
    launch_command(launch)


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message} (`accelerate launch --help` explains the launcher's flags).")


def how_to_resume(output: Path, *, since: float) -> str:
    """Return what continues an interrupted training, for its user.

    Args:
        output: Its output folder.
        since: When it began, in seconds since the epoch: older checkpoints are of another training.
    """
    checkpoint = last_checkpoint(output, since=since)
    if checkpoint is None:
        return "there is no checkpoint yet, so the same command starts over; --save_steps N writes one every N steps"
    return f"to resume, add --resume_from_checkpoint {checkpoint} to the same command"


def without(argv: list[str], removed: list[str]) -> list[str]:
    """Return `argv` without the words in `removed`, which appear in it in this order."""
    rest, kept = list(removed), []
    for word in argv:
        if word in rest[:1]:
            rest.pop(0)
        else:
            kept.append(word)
    return kept


def _end_children() -> None:
    """Wait for processes that Ctrl-C has reached as well, which may be writing a checkpoint; then end the others."""
    _, running = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=SECONDS_TO_END)
    for process in running:
        process.terminate()

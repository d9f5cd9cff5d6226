"""The script that `mofo sft` launches. Ctrl-C ends it without a traceback, during its slow imports as well."""

import os
import sys
from pathlib import Path

from mofo.errors import UserError, first_line
from mofo.models.quiet import is_verbose, quiet

SAID = "MOFO_SAID"
"""Environment variable with the path of a file that the first process to say something makes."""


def say(sentence: str) -> None:
    """Say what ended the training, unless another of several processes has: the others mostly end for the same."""
    if SAID in os.environ:
        try:
            Path(os.environ[SAID]).touch(exist_ok=False)
        except FileExistsError:
            return
    print(f"mofo sft: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    try:
        quiet()
        from mofo.trainers.trl_training import train

        train(sys.argv[1:])
    except UserError as error:
        say(str(error))
        sys.exit(2)
    except RuntimeError as error:  # such as memory that does not suffice
        if is_verbose():
            raise
        say(f"{first_line(error)} (--verbose shows where)")
        sys.exit(1)
    except KeyboardInterrupt:  # `mofo sft` says how to resume
        sys.exit(130)
